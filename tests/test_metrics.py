"""The measures of continual learning, on matrices worked out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from classp_jax import metrics

# Three tasks; in eighths, so that every mean of four or two is exact.
MATRIX = jnp.array([[1.0, 0.25, 0.125], [0.5, 0.75, 0.5], [0.25, 0.5, 1.0]])
UNTRAINED = jnp.array([0.125, 0.125, 0.25])
SAVED = jnp.array([[0.25, 0.5], [0.75, 0.5]])  # The second task helps the first.
MEASURES = {
    "average_accuracy": metrics.average_accuracy,
    "backward_transfer": metrics.backward_transfer,
    "forgetting": metrics.forgetting,
    "learning_accuracy": metrics.learning_accuracy,
    "forward_transfer": lambda r: metrics.forward_transfer(r, r.mean(-2)),
}


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("average_accuracy", (0.25 + 0.5 + 1.0) / 3),
        ("backward_transfer", ((0.25 - 1.0) + (0.5 - 0.75)) / 2),
        ("forgetting", ((1.0 - 0.25) + (0.75 - 0.5)) / 2),
        ("learning_accuracy", (1.0 + 0.75 + 1.0) / 3),
    ],
)
def test_three_tasks(measure, expected):
    assert MEASURES[measure](MATRIX) == pytest.approx(expected)


def test_forward_transfer_of_three_tasks():
    actual = metrics.forward_transfer(MATRIX, UNTRAINED)
    assert actual == pytest.approx(((0.25 - 0.125) + (0.5 - 0.25)) / 2)


def test_where_a_later_task_helps():
    assert metrics.backward_transfer(SAVED) == 0.5
    assert metrics.forgetting(SAVED) == -0.5


def test_the_best_may_stand_anywhere_before_the_last_task():
    # Task 2 was at its best before it was learned, task 1 after task 2.
    matrix = jnp.array([[0.5, 0.9, 0.1], [0.7, 0.6, 0.1], [0.4, 0.3, 0.8]])
    assert metrics.forgetting(matrix) == pytest.approx((0.3 + 0.6) / 2)
    # The last row isn't among them: what it gains counts.
    assert metrics.forgetting(matrix.at[2, 0].set(1.0)) == pytest.approx(
        (-0.3 + 0.6) / 2
    )


def test_forgetting_is_what_backward_transfer_lacks_where_accuracy_only_falls():
    falling = jnp.array([[0.9, 0.0, 0.0], [0.8, 0.9, 0.0], [0.5, 0.7, 0.9]])
    chex.assert_trees_all_close(
        metrics.forgetting(falling), -metrics.backward_transfer(falling)
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_constant_is_neither_lost_nor_gained(measure):
    expected = 0.5 if measure.endswith("_accuracy") else 0.0
    assert MEASURES[measure](jnp.full((4, 4), 0.5)) == expected


@pytest.mark.parametrize("measure", MEASURES)
def test_leading_axes_jit_and_units(measure):
    seeds = jnp.stack([MATRIX, MATRIX.T])
    alone = jnp.stack([MEASURES[measure](r) for r in seeds])
    chex.assert_trees_all_close(MEASURES[measure](seeds), alone)
    chex.assert_trees_all_close(jax.jit(MEASURES[measure])(seeds), alone)
    chex.assert_trees_all_close(jax.vmap(MEASURES[measure])(seeds), alone)
    chex.assert_trees_all_close(MEASURES[measure](100 * seeds), 100 * alone)
    of_numpy = MEASURES[measure](np.asarray(MATRIX, np.float64))
    assert of_numpy.dtype == jnp.float32
    # In bfloat16 counts above 256 would be rounded.
    assert MEASURES[measure](MATRIX.astype(jnp.bfloat16)).dtype == jnp.float32


def test_what_was_not_measured_is_left_out_or_missed():
    half = jnp.where(jnp.tri(3, dtype=bool), MATRIX, jnp.nan)
    measures = ("average_accuracy", "backward_transfer", "forgetting")
    for wrap in (lambda f: f, jax.jit):
        for measure in measures:  # They need none of what lies above the diagonal.
            actual = wrap(MEASURES[measure])(half)
            assert actual == MEASURES[measure](MATRIX), measure
        diagonal_alone = jnp.where(jnp.eye(3, dtype=bool), MATRIX, jnp.nan)
        assert wrap(metrics.learning_accuracy)(diagonal_alone) == 2.75 / 3
        assert jnp.isnan(wrap(metrics.learning_accuracy)(half.at[1, 1].set(jnp.nan)))
        untrained = jnp.array([jnp.nan, 0.125, 0.25])  # The first isn't read.
        assert jnp.isnan(wrap(metrics.forward_transfer)(half, untrained))
        assert jnp.isfinite(wrap(metrics.forward_transfer)(MATRIX, untrained))
        for measure in measures:
            assert jnp.isnan(wrap(MEASURES[measure])(half.at[2, 0].set(jnp.nan)))


def test_forgetting_needs_one_measurement_of_each_earlier_task():
    last_row_alone = MATRIX.at[:2, 1].set(jnp.nan)
    assert jnp.isnan(metrics.forgetting(last_row_alone))
    once = last_row_alone.at[0, 1].set(0.25)  # Before it was learned.
    assert metrics.forgetting(once) == (0.75 - 0.25) / 2
    assert metrics.forgetting(MATRIX.at[:, 2].set(jnp.nan)) == 0.5
    seeds = jnp.stack([MATRIX, last_row_alone])
    assert jnp.isnan(metrics.forgetting(seeds)).tolist() == [False, True]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dtype", [bool, np.int8, jnp.float8_e4m3fn])
def test_short_dtypes_are_computed_in_float32(measure, dtype):
    matrix = jnp.round(MATRIX).astype(dtype)
    actual = MEASURES[measure](matrix)
    assert actual.dtype == jnp.float32
    if measure != "forward_transfer":
        assert actual == MEASURES[measure](jnp.round(MATRIX))


def test_one_task_has_an_average_alone():
    for measure in (metrics.average_accuracy, metrics.learning_accuracy):
        assert measure(jnp.array([[0.75]])) == 0.75
    for measure in ("backward_transfer", "forgetting", "forward_transfer"):
        with pytest.raises(ValueError, match=r"at least 2 tasks, got shape \(1, 1\)"):
            MEASURES[measure](jnp.ones((1, 1)))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shape", [(2, 3), (0, 0), (3, 3, 2)])
def test_what_is_not_square_is_refused(measure, shape):
    with pytest.raises(ValueError, match="accuracy must have a row and a column"):
        MEASURES[measure](jnp.ones(shape))


def test_untrained_must_have_as_many_tasks():
    for untrained in (jnp.ones(2), jnp.ones([]), jnp.ones((3, 4))):
        with pytest.raises(ValueError, match="untrained must have 3 tasks"):
            metrics.forward_transfer(MATRIX, untrained)


@pytest.mark.parametrize("wrong", ["text", None, {"a": 1}, 1j * jnp.ones((2, 2))])
def test_what_is_no_array_of_real_numbers_is_refused(wrong):
    with pytest.raises(TypeError, match="accuracy must be an array of real numbers"):
        metrics.average_accuracy(wrong)
    with pytest.raises(TypeError, match="untrained must be an array of real numbers"):
        metrics.forward_transfer(MATRIX, wrong)
