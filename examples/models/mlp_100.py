"""The multi-layer perceptron that GPM is published with on Permuted MNIST."""

import functools

from examples.models.mlp import MLP
from examples.models.registry import Model

MODEL = Model(
    functools.partial(MLP, hidden=100, use_bias=False),
    "784-100-100-10 with ReLU and no biases, as GPM (Saha et al. 2021) has it",
    ", by 784-100-100-10 without biases",
)
