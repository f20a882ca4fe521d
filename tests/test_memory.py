"""Sums that forget: ``memory``, against a loop and against sums that don't."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import classp_jax
from tests import helpers

pytestmark = pytest.mark.usefixtures("few_compiled_functions")

READINGS = (classp_jax.classp, classp_jax.classp_equation1)
SHAPES = {"kernel": (5, 4), "bias": (3,)}


def gradients(steps, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {k: jnp.float32(rng.normal(size=s)) for k, s in SHAPES.items()}
        for _ in range(steps)
    ]


def run(optimizer, stream):
    """The updates of every step, and the states before, between and behind them."""
    states, found = [optimizer.init(stream[0])], []
    update = jax.jit(optimizer.update)
    for grads in stream:
        updates, state = update(grads, states[-1], stream[0])
        found.append(updates)
        states.append(state)
    return found, states


THRESHOLD, EPS, RATE, OPENS = 0.25, 0.1, 0.5, 2


def memory_at(step):
    return 3.0 if step < 4 else 20.0


def by_numpy(stream, equation1, factored):
    """Updates and sums of each weight by the definition, in float64.

    What the threshold masks, what isn't finite and a closed gate don't keep a step from
    forgetting.
    """
    updates, sums = [{} for _ in stream], [{} for _ in stream]
    for name, shape in SHAPES.items():
        in_parts = factored and len(shape) == 2
        s, rows, columns = np.zeros(shape), np.zeros(shape[:1]), np.zeros(shape[-1:])
        for step, grads in enumerate(stream):
            g = np.nan_to_num(np.float64(grads[name]), posinf=0.0, neginf=0.0)
            passes = g**2 > THRESHOLD
            term = np.abs(g) * (1 if equation1 else passes)
            left = 1 - 1 / memory_at(step)
            total = s if equation1 else left * s + term
            if in_parts:
                rows = left * rows + term.sum(1)
                columns = left * columns + term.sum(0)
                s = np.outer(rows, columns) / max(rows.sum(), 1e-30)
            else:
                s = left * s + term
            scaled = g / (EPS + total) if step >= OPENS else g
            updates[step][name], sums[step][name] = -RATE * passes * scaled, s
    return updates, sums


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("reading", READINGS)
def test_it_is_what_the_formula_says(reading, factored):
    stream = gradients(9)
    for step, bad in ((3, np.nan), (4, np.inf), (7, -np.inf)):
        stream[step] = jax.tree.map(lambda g, bad=bad: g.at[0].set(bad), stream[step])
    optimizer = reading(
        RATE,
        THRESHOLD,
        eps=EPS,
        apply_decay=lambda step: step >= OPENS,
        factored=factored,
        memory=lambda step: jnp.where(step < 4, memory_at(0), memory_at(4)),
    )
    found, states = run(optimizer, stream)
    updates, sums = by_numpy(stream, reading is READINGS[1], factored)
    chex.assert_trees_all_close(found, updates, rtol=2e-6, atol=1e-7)
    actual = [helpers.sum_of_each_weight(state) for state in states[1:]]
    chex.assert_trees_all_close(actual, sums, rtol=2e-6, atol=1e-7)


KINDS = [
    (classp_jax.classp, {}),
    (classp_jax.classp, dict(factored=True, power=1.5)),
    (classp_jax.classp_equation1, dict(accumulator_dtype=jnp.bfloat16, bounded=True)),
    (classp_jax.classp_gram, dict(rank=None, max_dim=3)),
    (classp_jax.classp_gram, dict(rank=2)),
]


def test_infinite_it_is_none_to_the_bit():
    stream = gradients(5)

    def outcome(memory, **how):
        """Updates and states of all kinds, by one program."""

        def step(grads, states, memory):
            return [
                make(0.1, memory=memory, **kept).update(grads, state)
                for (make, kept), state in zip(KINDS, states, strict=True)
            ]

        states = [make(0.1, **kept).init(stream[0]) for make, kept in KINDS]
        compiled, found = jax.jit(step, **how), []
        for grads in stream:
            found.append(compiled(grads, states, memory))
            states = [state for _, state in found[-1]]
        return jax.device_get(found)

    never = outcome(None)
    chex.assert_trees_all_equal(outcome(math.inf), never)
    chex.assert_trees_all_equal(outcome(math.inf, static_argnums=2), never)


def test_where_a_gradient_is_none_nothing_is_forgotten():
    part = classp_jax.scale_by_accumulated_power_norm(memory=2.0)
    first, second = gradients(2)
    _, before = part.update(first, part.init(first))
    _, after = part.update({**second, "kernel": None}, before)
    chex.assert_trees_all_equal(after.grad_sum["kernel"], before.grad_sum["kernel"])
    assert np.all(after.grad_sum["bias"] != before.grad_sum["bias"])


@pytest.mark.parametrize("factored", [False, True])
def test_a_sum_that_has_saturated_can_be_forgotten(factored):
    part = classp_jax.scale_by_accumulated_power_norm(factored=factored, memory=2.0)
    # The second would be more than float32 holds.
    huge, small = jnp.full((3, 4), 3e38), jnp.full((3, 4), 1e-3)
    _, states = run(part, [huge, huge, huge, *[small] * 160])
    sums = [helpers.sum_of_each_weight(state) for state in states]
    assert all(np.all(np.isfinite(s)) for s in sums)
    assert np.all(np.float64(sums[3]) > 1e37)
    chex.assert_trees_all_close(sums[-1], 2 * small, rtol=1e-5)


@pytest.mark.parametrize("rank", [None, 2])
def test_directions_forget_where_a_step_would_overflow(rank):
    part = classp_jax.scale_by_accumulated_gram(rank=rank, memory=2.0)
    usual, huge = jnp.eye(5, 4), jnp.full((5, 4), 1e19)
    _, (_, before, after) = run(part, [usual, huge])
    chex.assert_trees_all_close(
        after.gram, jax.tree.map(lambda s: s / 2, before.gram), rtol=1e-6
    )


@pytest.mark.parametrize(("memory", "shrinks"), [(100, True), (513, False)])
def test_sums_of_few_bits_shrink_with_short_memories_alone(memory, shrinks):
    part = classp_jax.scale_by_accumulated_power_norm(
        memory=memory, accumulator_dtype=jnp.bfloat16
    )
    _, (_, first, *_, last) = run(part, [jnp.linspace(1, 2, 60), *[jnp.zeros(60)] * 9])
    lower = np.asarray(last.grad_sum < first.grad_sum)
    assert np.all(lower) if shrinks else not np.any(lower)


def test_it_is_set_without_compiling_again():
    stream, settings = gradients(5), {2: 3, 4: math.inf}
    for make in (classp_jax.classp, classp_jax.classp_gram):
        static = {"power", "exponent", "refresh_every", "max_dim", "rank"}
        known = make.__kwdefaults__.keys() & static
        injected = optax.inject_hyperparams(make, static_args=tuple(known))(
            0.1, memory=math.inf
        )
        update, state = jax.jit(injected.update), injected.init(stream[0])
        schedule = make(0.1, memory=lambda step: jnp.where(step // 2 == 1, 3.0, 1e30))
        expected, _ = run(schedule, stream)
        for step, grads in enumerate(stream):
            if step in settings:
                state = classp_jax.set_hyperparameters(state, memory=settings[step])
            updates, state = update(grads, state)
            chex.assert_trees_all_close(updates, expected[step], rtol=1e-6)
        assert update._cache_size() == 1


@pytest.mark.parametrize("unknown", [1.0, 0.5, 0.0, -3.0, np.nan])
def test_what_is_no_memory_at_run_time_keeps_the_present_alone(unknown):
    part = classp_jax.scale_by_accumulated_power_norm(memory=lambda step: unknown)
    *_, gradient = stream = gradients(3)
    state = part.init(gradient)
    for grads in stream:
        _, state = part.update(grads, state)
    chex.assert_trees_all_equal(state.grad_sum, jax.tree.map(jnp.abs, gradient))
