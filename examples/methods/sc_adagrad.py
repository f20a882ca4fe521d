"""SC-AdaGrad (Mukkamala and Hein 2017): an optimizer that knows of no tasks."""

from classp_jax.baselines import sc_adagrad
from examples.methods.registry import (
    ADAPTIVE_RATES,
    Sweep,
    further,
    same_throughout,
)
from examples.runner.optimizers import register_optimizer
from examples.runner.plan import Family

FAMILY = Family("SC-AdaGrad", "#4488ff")

SWEEPS = further(
    [
        Sweep(
            "sc_adagrad",
            "SC-AdaGrad",
            "α",
            ADAPTIVE_RATES,
            same_throughout(register_optimizer(sc_adagrad)),
            FAMILY,
        ),
    ]
)
