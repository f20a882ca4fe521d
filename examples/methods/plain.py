"""Optimizers that know of no tasks: SGD, Adam and AdaGrad."""

from examples.methods.registry import ADAPTIVE_RATES, RATES, Sweep, same_throughout
from examples.runner.plan import Family

SGD = Family("SGD", "#0072b2")
ADAM = Family("Adam", "#bb7744")
ADAGRAD = Family("AdaGrad", "#009e73")
_ADAMS_RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


SWEEPS = [
    Sweep("sgd", "SGD", "α", RATES, same_throughout("sgd"), SGD),
    Sweep("adam", "Adam", "α", _ADAMS_RATES, same_throughout("adam"), ADAM),
    Sweep(
        "adagrad", "AdaGrad", "α", ADAPTIVE_RATES, same_throughout("adagrad"), ADAGRAD
    ),
]
