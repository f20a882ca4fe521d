"""The multi-layer perceptron that GPM is published with on Permuted MNIST."""

import functools

from examples.models.mlp import MLP
from examples.models.registry import Model

MODEL = Model(
    functools.partial(MLP, hidden=100, use_bias=False),
    "two layers of 100 with ReLU and no biases, as GPM (Saha et al. 2021) has them",
    ", by {inputs}-100-100-{outputs} without biases",
)
