"""What the readings are defined as, and how Optax reads their signatures."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import classp_jax
from classp_jax import baselines
from tests import helpers


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_classp_is_the_chain_that_its_docstring_shows_to_the_bit(power, relative):
    threshold, eps, learning_rate = 0.5, 1e-3, 0.1

    def apply_decay(step):
        return step >= 2

    chain = optax.chain(
        classp_jax.threshold_mask(threshold, relative=relative),
        classp_jax.decay_gate(
            classp_jax.scale_by_accumulated_power_norm(power, eps), apply_decay
        ),
        optax.scale_by_learning_rate(learning_rate),
    )
    whole = classp_jax.classp(
        learning_rate,
        threshold,
        power=power,
        eps=eps,
        apply_decay=apply_decay,
        relative=relative,
    )
    rng = np.random.default_rng(0)
    shapes = {"kernel": (5, 7), "bias": (7,), "scale": ()}
    states = [
        optimizer.init(jax.tree.map(jnp.zeros, shapes, is_leaf=is_shape))
        for optimizer in (chain, whole)
    ]
    updates = [jax.jit(optimizer.update) for optimizer in (chain, whole)]
    for _ in range(6):
        grads = {k: jnp.float32(rng.normal(size=s)) for k, s in shapes.items()}
        results = [f(grads, s) for f, s in zip(updates, states, strict=True)]
        states = [state for _, state in results]
        chex.assert_trees_all_equal(results[0][0], results[1][0])
        sums = [helpers.sum_of_each_weight(state) for state in states]
        chex.assert_trees_all_equal(*sums)
    assert np.any(results[0][0]["kernel"] == 0) and np.any(results[0][0]["kernel"])


def is_shape(node):
    return isinstance(node, tuple)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (classp_jax.classp, ["learning_rate", "threshold", "eps"]),
        (classp_jax.classp_equation1, ["learning_rate", "threshold", "eps"]),
        (classp_jax.classp_released, ["learning_rate", "threshold", "eps"]),
        (classp_jax.classp_gram, ["learning_rate", "damping", "threshold"]),
        (baselines.ewc_penalty, ["strength", "learning_rate"]),
        (baselines.synaptic_intelligence, ["strength", "learning_rate"]),
        (classp_jax.threshold_mask, ["threshold"]),
        (classp_jax.scale_by_accumulated_power_norm, ["eps"]),
        (classp_jax.scale_by_accumulated_gram, ["damping"]),
    ],
)
def test_annotations_say_what_may_be_a_schedule(make, names):
    """As Optax's own tests of its optimizers read them: as objects, not as text."""
    parameters = inspect.signature(make).parameters
    assert [
        name
        for name, parameter in parameters.items()
        if parameter.annotation == optax.ScalarOrSchedule
    ] == names
