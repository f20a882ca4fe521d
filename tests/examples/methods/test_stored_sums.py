import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import classp_jax
from examples.methods.stored_sums import (
    classp_stored,
    restore,
    scale_by_stored_sum,
    store,
)

# Of the greatest of a block, or of the value itself; half of it to the nearest.
APART = {"bfloat16": 2**-7, "linear": 1 / 255, "square": 2 / 255, "logarithmic": 0.091}
STOCHASTIC = [(storage, "stochastic") for storage in APART]
SUMS = jax.random.uniform(jax.random.key(1), (300, 7)) ** 4


def stored(x, storage, rounding, seed=0):
    return restore(store(x, storage, rounding, jax.random.key(seed)), storage, x.shape)


@pytest.mark.parametrize(
    ("storage", "rounding"), [(s, "nearest") for s in APART] + STOCHASTIC
)
def test_what_is_stored_is_next_to_the_sum(storage, rounding):
    error = np.abs(stored(SUMS, storage, rounding) - SUMS)
    of = SUMS if storage in ("bfloat16", "logarithmic") else 1.0
    at_most = APART[storage] * (0.5 if rounding == "nearest" else 1)
    assert np.all(error <= at_most * of + 2**-24 + 1e-6)
    assert np.max(error / of) > at_most / 2


@pytest.mark.parametrize(("storage", "rounding"), STOCHASTIC)
def test_rounding_by_chance_is_right_on_average(storage, rounding):
    # A tenth of the way to the next level, where to the nearest is always below.
    x = jnp.full([2, 256], 1.0).at[1].set(0.5).at[1, 0].set(1)
    code = store(x, storage, "nearest", jax.random.key(0))
    if storage == "bfloat16":
        low, high = 0.5, 0.5 + 2**-8
    else:
        low = restore(code, storage, x.shape)[1, 1]
        codes = code.codes.at[1, 1:].add(1)
        high = restore(code._replace(codes=codes), storage, x.shape)[1, 1]
    between = low + 0.1 * (high - low)
    x = x.at[1, 1:].set(between)
    many = jnp.stack([stored(x, storage, rounding, seed)[1, 1:] for seed in range(40)])
    np.testing.assert_allclose(np.unique(many), [low, high], rtol=1e-6)
    share = (many.mean() - low) / (high - low)
    assert 0.09 < share < 0.11
    nearest = stored(x, storage, "nearest")[1, 1:]
    np.testing.assert_allclose(nearest, low, rtol=1e-6)


def test_feedback_keeps_the_total_of_a_block():
    x = jax.random.uniform(jax.random.key(2), (512,)) ** 8

    def error(rounding):
        y = stored(x, "linear", rounding)
        return max(abs(y.reshape(2, 256).sum(1) / x.reshape(2, 256).sum(1) - 1))

    assert error("nearest") > 1e-4
    assert error("feedback") < 1e-6


def test_a_tensor_of_equal_gradients_is_as_in_full():
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(5)}
    gradient = jax.tree.map(lambda p: 0.25 * p, params)
    for storage in ("tensor", "bfloat16", "linear"):
        one, other = classp_stored(0.1, storage), classp_jax.classp(0.1)
        state, expected_state = one.init(params), other.init(params)
        for _ in range(3):
            updates, state = jax.jit(one.update)(gradient, state)
            expected, expected_state = other.update(gradient, expected_state)
            chex.assert_trees_all_close(updates, expected, rtol=1e-6)


def test_the_sum_is_collected_while_the_decay_is_off():
    closed, params = classp_stored(0.1, "square", apply_decay=False), jnp.ones(5)
    updates, state = closed.update(params, closed.init(params))
    chex.assert_trees_all_close(updates, -0.1 * params)
    (collected,) = optax.tree.get(state, "stored")
    chex.assert_trees_all_close(restore(collected, "square", (5,)), params)


@pytest.mark.parametrize(
    ("storage", "bytes_a_weight"),
    [("tensor", 0), ("bfloat16", 2), ("square", 1 + 4 / 256), ("logarithmic", 1.016)],
)
def test_memory(storage, bytes_a_weight):
    state = scale_by_stored_sum(storage).init(jnp.ones((512, 512)))
    kept = sum(x.nbytes for x in jax.tree.leaves(state)) / 512**2
    assert kept == pytest.approx(bytes_a_weight, abs=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [("float8",), ("linear", "up"), ("bfloat16", "feedback"), ("tensor", "stochastic")],
)
def test_unknown_storages(wrong):
    with pytest.raises(ValueError, match=r"^No "):
        scale_by_stored_sum(*wrong)
