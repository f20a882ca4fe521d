"""MoFO against a loop of the authors' arithmetic, and which weights it moves."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from classp_jax.baselines import mofo, scale_by_mofo
from tests import helpers

SHAPES = {"kernel": (5, 4), "bias": (4,)}
RNG = np.random.default_rng(0)
START = {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}
GRADS = [
    {name: RNG.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(6)
]
RATE, B1, B2, EPS, DECAY = 0.1, 0.8, 0.95, 1e-3, 0.05


def loop(fraction):
    """The authors' step, in float64: weights after each."""
    weights = {name: w.copy() for name, w in START.items()}
    m = {name: np.zeros_like(w) for name, w in START.items()}
    v = {name: np.zeros_like(w) for name, w in START.items()}
    after = []
    for t, grads in enumerate(GRADS, 1):
        for name, g in grads.items():
            weights[name] *= 1 - RATE * DECAY
            m[name] += (1 - B1) * (g - m[name])
            v[name] = B2 * v[name] + (1 - B2) * g * g
            divisor = np.sqrt(v[name]) / np.sqrt(1 - B2**t) + EPS
            count = int(g.size * fraction)
            threshold = np.sort(np.abs(m[name]).ravel())[::-1][:count].min()
            moves = np.where(np.abs(m[name]) >= threshold, m[name], 0)
            weights[name] -= RATE / (1 - B1**t) * moves / divisor
        after.append({name: w.copy() for name, w in weights.items()})
    return after


def run(solver, dtype=jnp.float32):
    params = jax.tree.map(lambda w: jnp.asarray(w, dtype), START)
    opt_state, after = solver.init(params), []
    update = jax.jit(solver.update)
    for grads in GRADS:
        grads = jax.tree.map(lambda g: jnp.asarray(g, dtype), grads)
        updates, opt_state = update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        after.append(params)
    return after


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
def test_steps_are_those_of_a_loop(fraction):
    solver = mofo(RATE, fraction, B1, B2, EPS, DECAY)
    for actual, expected in zip(run(solver), loop(fraction), strict=True):
        chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_of_all_weights_it_is_adamw():
    expected = run(optax.adamw(RATE, B1, B2, EPS, weight_decay=DECAY))
    actual = run(mofo(RATE, 1.0, B1, B2, EPS, DECAY))
    chex.assert_trees_all_close(actual, expected, rtol=1e-6, atol=1e-7)


def moved(momentum, fraction, wrap=lambda x: x):
    """Which weights the first step moves, by their gradients."""
    grads = jnp.asarray(momentum, jnp.float32)
    scale = scale_by_mofo(wrap(fraction))
    updates, _ = scale.update(grads, scale.init(grads))
    return (np.asarray(updates) != 0).tolist()


@pytest.mark.parametrize(
    "wrap",
    [lambda x: x, jnp.asarray, lambda x: lambda step: jnp.asarray(x)],
    ids=["number", "array", "schedule"],
)
@pytest.mark.parametrize(
    ("fraction", "count"),
    [(0.01, 1), (0.19, 1), (0.2, 2), (0.29, 2), (0.5, 5), (0.99, 9), (1.0, 10)],
)
def test_how_many_weights_move(fraction, count, wrap):
    sizes = np.array([3.0, -1, 4, -1.5, 9, -2.6, 5.3, -5.8, 9.7, 0.2])
    expected = np.abs(sizes) >= np.sort(np.abs(sizes))[-count]
    assert moved(sizes, fraction, wrap) == expected.tolist()


def test_of_many_weights_those_move_that_sorting_finds():
    rng = np.random.default_rng(0)
    sizes = np.concatenate(
        [rng.normal(size=5000), 1e-30 * rng.normal(size=3000), np.ones(100)]
    ).astype(np.float32)
    for count in (1, 50, 800, 5000, 5100, 5101, 7000, 8100):
        threshold = np.sort(np.abs(sizes))[-count]
        expected = (np.abs(sizes) >= threshold).tolist()
        # Half a weight more, lest the product is rounded down.
        assert moved(sizes, min((count + 0.5) / sizes.size, 1.0)) == expected


def test_in_float64_those_move_that_differ_in_the_last_digit():
    with helpers.enable_x64(True):
        grads = jnp.array([1.0, 1 + 1e-15, 1 - 1e-15, 1 + 2e-15], jnp.float64)
        scale = scale_by_mofo(0.5, b1=0.0)
        updates, _ = scale.update(grads, scale.init(grads))
    assert (np.asarray(updates) != 0).tolist() == [False, True, False, True]


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="newer than the lowest JAX")
def test_inside_shard_map_a_shard_is_a_tensor():
    grads, scale = jnp.arange(1.0, 33.0), scale_by_mofo(0.25)

    def step(grads):
        return scale.update(grads, scale.init(grads))[0]

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    each = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec))
    assert np.flatnonzero(each(grads)).tolist() == [*range(3, 32, 4)]
    assert np.flatnonzero(step(grads)).tolist() == [*range(24, 32)]


def test_devices_send_each_other_counts_alone():
    place = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec("data"))
    params, scale = jax.device_put(jnp.ones((64, 48)), place), scale_by_mofo()
    program = jax.jit(scale.update).lower(params, scale.init(params)).compile()
    sent = re.findall(
        r"= (\S+) (all-reduce|all-gather|all-to-all|collective-permute)\(",
        program.as_text(),
    )
    assert sent and all(
        what == "all-reduce" and re.fullmatch(r"\w+\[\](\{\})?", shape)
        for shape, what in sent
    )


def test_of_a_small_tensor_one_weight_moves():
    assert moved([1.0, -2.0, 1.5], 0.15) == [False, True, False]
    assert moved([0.5], 0.01) == [True]
    assert moved(np.arange(13.0), 0.15).count(True) == 1
    assert moved(np.arange(14.0), 0.15).count(True) == 2


def test_all_that_tie_move():
    assert moved([1.0, -1.0, 1.0, 0.5], 0.25) == [True, True, True, False]
    assert moved([2.0, 1.0, -1.0, 0.5], 0.5) == [True, True, True, False]


def test_without_momentum_none_moves():
    assert moved([0.0, 0.0, 0.0], 1.0) == [False] * 3
    assert moved([0.0, 3.0, 0.0], 1.0) == [False, True, False]


def test_momentum_decides_not_adams_step():
    """A weight whose gradients are small but steady has a step as long as any."""
    grads = [jnp.array([0.1, 1.0]), jnp.array([0.1, -1.2]), jnp.array([0.1, 1.0])]
    scale = scale_by_mofo(0.5, b1=0.5)
    state = scale.init(grads[0])
    for g in grads:
        updates, state = scale.update(g, state)
    full, _ = optax.scale_by_adam(b1=0.5).update(grads[-1], state._replace())
    assert abs(full[0]) > abs(full[1])
    assert updates[0] == 0 and updates[1] != 0


def test_the_decay_shrinks_also_what_does_not_move():
    params = jnp.array([2.0, -4.0])
    solver = mofo(0.1, 0.5, weight_decay=0.5)
    updates, _ = solver.update(jnp.array([1.0, 0.1]), solver.init(params), params)
    np.testing.assert_allclose(updates[1], 0.1 * 0.5 * 4, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stops_its_weight_and_takes_no_place(bad):
    scale = scale_by_mofo(0.5)
    grads = jnp.array([bad, 1.0, 2.0, 3.0])
    state = scale.init(grads)
    updates, state = scale.update(grads, state)
    assert (np.asarray(updates) != 0).tolist() == [False, False, True, True]
    updates, state = scale.update(grads.at[0].set(9.0), state)
    assert (np.asarray(updates) != 0).tolist() == [False, False, True, True]
    everything = scale_by_mofo(1.0)
    updates, _ = everything.update(grads, everything.init(grads))
    assert updates[0] == 0 and np.all(updates[1:] != 0)


def test_a_part_may_be_adams():
    """As in the authors' code, which filters no bias."""
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), START)
    solver = optax.partition(
        {"mofo": mofo(RATE, 0.1), "adam": optax.adam(RATE)},
        {"kernel": "mofo", "bias": "adam"},
    )
    updates, _ = solver.update(params, solver.init(params), params)
    assert np.count_nonzero(updates["kernel"]) == 2
    assert np.count_nonzero(updates["bias"]) == 4
