"""What docs/concepts/theory.md states holds, and nothing much stronger would."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import classp_jax
from classp_jax import displacement_bound
from tests import helpers

STREAMS, STEPS = 300, 48
compiled_bound = jax.jit(
    displacement_bound, static_argnames=("power", "bounded", "include_current")
)
FLOAT32 = 1 + 1e-5  # Of some 50 steps, each rounded a few times.


def updates_and_states(optimizer, gradients):
    """The updates of each step, and the states around and between all of them."""

    @jax.jit
    def run(gradients):
        def step(opt_state, gradient):
            updates, opt_state = optimizer.update(gradient, opt_state)
            return opt_state, (updates, opt_state)

        first = optimizer.init(jax.tree.map(lambda g: g[0], gradients))
        _, (updates, states) = jax.lax.scan(step, first, gradients)
        states = jax.tree.map(
            lambda one, all_of: jnp.concatenate([one[None], all_of]), first, states
        )
        return updates, states

    return jax.device_get(run(gradients))


def grad_sum(opt_state):
    return optax.tree.get(opt_state, "grad_sum")


def at(states, step):
    return jax.tree.map(lambda x: x[step], states)


def wild_gradients():
    """(STEPS, STREAMS): of all sizes, rising, falling and jumping, with zeros."""
    rng = np.random.default_rng(0)
    shape = STEPS, STREAMS
    size = rng.normal(scale=2, size=STREAMS)
    size = size + rng.uniform(-0.5, 0.5, STREAMS) * np.arange(STEPS)[:, None]
    size += np.cumsum(rng.normal(size=shape), 0) * rng.uniform(0, 1, STREAMS)
    signs = rng.choice([-1, 1], shape) * (rng.random(shape) < 0.9)
    return np.float32(signs * np.exp(np.clip(size, -9, 9)))


def growing_gradients(power, eps, steps):
    """(STEPS, STREAMS): eps + sum grows by a factor a step, its own in each stream.

    After a first one, whose power is eps, and until so many steps; then they are 0.
    """
    growth = np.minimum(np.arange(STEPS), steps)
    growth = np.multiply.outer(growth, np.geomspace(1e-4, 1.3, STREAMS))
    sums = 2 * eps * np.exp(growth)
    powers = np.vstack([np.full((1, STREAMS), eps), np.diff(sums, axis=0)])
    return np.float32(powers ** (1 / power))


RATE, EPS = 0.5, 0.25


@functools.cache
def run_on_weights(reading, power, bounded, steps):
    """Of wild streams and then of growing ones."""
    optimizer = getattr(classp_jax, reading)(
        RATE, threshold=1e-6, power=power, eps=EPS, bounded=bounded
    )
    growing = growing_gradients(power, EPS, steps)
    return updates_and_states(optimizer, np.hstack([wild_gradients(), growing]))


@pytest.mark.parametrize(
    ("reading", "power", "bounded", "steps"),
    [
        ("classp", 0.5, False, 16),
        ("classp", 1.0, False, STEPS),
        ("classp", 1.5, True, STEPS),
        ("classp", 2.0, False, STEPS),
        ("classp_equation1", 0.5, True, 1),
        ("classp_equation1", 1.0, False, 1),
        ("classp_equation1", 2.0, False, STEPS),
    ],
)
def test_a_weight_goes_no_further_than_its_sum_has_grown(
    reading, power, bounded, steps
):
    updates, states = run_on_weights(reading, power, bounded, steps)

    def share_of_bound(start, **settings):
        bound = compiled_bound(
            at(states, start),
            at(states, STEPS),
            RATE,
            power=power,
            eps=EPS,
            bounded=bounded,
            **settings,
        )
        moved = np.abs(np.float64(updates[start:])).sum(0)
        assert bound.shape == moved.shape and bound.dtype == jnp.float32
        return np.max(moved / np.where(moved > 0, bound, 1))

    current = reading == "classp"
    shares = [share_of_bound(start, include_current=current) for start in (0, 1, 20)]
    assert max(shares) < FLOAT32 and shares[1] > 0.99
    if not current:
        assert share_of_bound(0) > 2


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_with_a_memory_what_is_forgotten_is_part_of_the_bound(power):
    memory, steps = 100, STEPS - 1
    optimizer = classp_jax.classp(RATE, power=power, eps=EPS, memory=memory)
    # In the last stream a step adds what it has forgotten.
    steady = np.full((STEPS, 1), 1e3)
    steady[0] *= memory ** (1 / power)
    gradients = np.hstack([wild_gradients(), np.float32(steady)])
    updates, states = updates_and_states(optimizer, gradients)
    totals = np.float64(grad_sum(states)) + EPS
    moved = np.abs(np.float64(updates[1:])).sum(0)
    grown = np.log(totals[-1] / totals[1])
    per_step = grown / steps + np.log(memory / (memory - 1))
    bound = RATE * steps * (1 - np.exp(-per_step)) ** (1 / power)
    assert np.all(moved <= bound * FLOAT32) and moved[-1] > 0.999 * bound[-1]
    assert abs(grown[-1]) < 1e-4  # From which the sum alone would say: nowhere.


def test_what_rounding_hides_from_a_sum_is_part_of_the_bound():
    optimizer = classp_jax.classp(1.0, accumulator_dtype=jnp.bfloat16)
    gradients = np.float32([[1.0], *[[2.0**-8]] * (STEPS - 1)])
    updates, states = updates_and_states(optimizer, gradients)
    before, after = at(states, 1), at(states, STEPS)
    chex.assert_trees_all_equal(*map(grad_sum, (before, after)))
    moved = -np.sum(updates[1:])
    bound = compiled_bound(before, after, 1.0)
    assert moved <= bound * FLOAT32 and moved > 0.99 * bound


def test_an_old_loss_rises_no_further_than_its_slope_and_curvature_allow():
    weights = 6
    updates, states = run_on_weights("classp", 1.0, False, STEPS)
    bound = compiled_bound(at(states, 1), at(states, STEPS), RATE, eps=EPS)
    moved = np.float64(updates[1:].sum(0)).reshape(-1, weights)
    bound = np.float64(bound).reshape(moved.shape)
    rng = np.random.default_rng(1)
    slope = -np.exp(rng.normal(scale=2, size=moved.shape))
    factor = rng.normal(size=(len(moved), weights, weights))
    hessian = factor @ factor.swapaxes(1, 2)
    # Those that growing gradients take up the slope are as steep on all sides.
    hessian[len(moved) // 2 :] = np.eye(weights)
    smoothness = np.linalg.eigvalsh(hessian)[:, -1]
    rise = np.einsum("ki,ki->k", slope, moved)
    rise += np.einsum("ki,kij,kj->k", moved, hessian, moved) / 2
    allowed = np.sum(np.abs(slope) * bound, 1)
    allowed += smoothness / 2 * np.sum(bound**2, 1)
    assert np.all(rise <= allowed * FLOAT32) and np.max(rise / allowed) > 0.99


DAMPING, ROWS, COLUMNS = 0.5, 3, 2


def gradients_of_matrices(streams=200):
    """(STEPS, streams, ROWS, COLUMNS); half of the streams keep to one direction."""
    rng = np.random.default_rng(3)
    half = streams // 2
    size = np.exp(rng.normal(scale=1.5, size=(STEPS, half, 1, 1)) - 1)
    wild = size * rng.normal(size=(STEPS, half, ROWS, COLUMNS))
    # damping + sum grows by the same factor at every step.
    sums = DAMPING * np.exp(
        np.multiply.outer(np.arange(STEPS + 1), np.geomspace(1e-6, 0.05, half))
    )
    length = np.sqrt(np.diff(sums, axis=0))
    onto = rng.normal(size=(half, ROWS, 1))
    onto /= np.linalg.norm(onto, axis=1, keepdims=True)
    one = length[..., None, None] * onto * [1.0, 0.0]
    return np.concatenate([wild, one], 1)


@functools.cache
def run_on_matrices(exponent, refresh_every):
    """Of all streams: the updates, and damping + sum before, between and after."""
    settings = dict(exponent=exponent, refresh_every=refresh_every)
    with helpers.enable_x64(True):
        scale = classp_jax.scale_by_accumulated_gram(DAMPING, **settings)
        scale = classp_jax.per_layer(scale)  # The streams are its layers.
        updates, states = updates_and_states(scale, gradients_of_matrices())
    sums = states.gram[:, :, 0] + DAMPING * np.eye(ROWS)
    return updates.swapaxes(0, 1), sums.swapaxes(0, 1)


def since(start, run):
    updates, sums = run
    return updates[:, start:], sums[:, start:]


def largest_eigenvalue(of, relative_to):
    """The largest share that vᵀ of v has of vᵀ relative_to v, for any v."""
    values, vectors = np.linalg.eigh(relative_to)
    values = np.maximum(values, 1e-14 * values[..., -1:])
    half = vectors / np.sqrt(values)[..., None, :]
    return np.linalg.eigvalsh(half.swapaxes(-2, -1) @ of @ half)[..., -1]


def squares_and_bound(updates, sums):
    """The sum of U Uᵀ, and what bounds it, as matrices."""
    squares = np.einsum("ktij,ktlj->kil", updates, updates)
    inverses = np.linalg.inv(sums[:, [0, -1]])
    return squares, DAMPING**2 * (inverses[:, 0] - inverses[:, 1])


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_all_directions_together_move_no_further_than_the_log_determinant(exponent):
    updates, sums = since(8, run_on_matrices(exponent, 1))
    steps = updates.shape[1]
    moved = np.linalg.norm(updates.sum(1), axis=(1, 2))
    growth = np.linalg.slogdet(sums[:, -1])[1] - np.linalg.slogdet(sums[:, 0])[1]
    bound = np.sqrt(steps * DAMPING * growth)
    assert np.all(moved <= bound) and np.max(moved / bound) > 0.95


def test_a_direction_moves_no_further_than_its_sum_has_grown():
    updates, sums = since(8, run_on_matrices(1.0, 1))
    squares, bound = squares_and_bound(updates, sums)
    assert np.all(largest_eigenvalue(squares, bound) < 1 + 1e-9)
    rng = np.random.default_rng(4)
    directions = np.concatenate(
        [rng.normal(size=(len(bound), 9, ROWS)), updates[:, -1].swapaxes(1, 2)], 1
    )
    moved = np.linalg.norm(directions @ updates.sum(1), axis=-1)
    along = np.einsum("kvi,kij,kvj->kv", directions, bound, directions)
    allowed = np.sqrt(updates.shape[1] * np.maximum(along, 1e-30))
    assert np.all(moved <= allowed * (1 + 1e-9)) and np.max(moved / allowed) > 0.95


def test_a_stale_factor_moves_it_further_by_what_the_sum_grew_in_between():
    every = 8
    updates, sums = since(every, run_on_matrices(1.0, every))
    squares, bound = squares_and_bound(updates, sums)
    further = largest_eigenvalue(squares, bound)
    assert np.max(further) > 2  # It is not what holds for a fresh one.
    refreshed, ends = sums[:, 1::every], sums[:, every::every]
    growth = largest_eigenvalue(ends, refreshed).max(1)
    assert np.all(further <= growth * (1 + 1e-9)) and np.max(further / growth) > 0.9


def examples(seed, orders):
    """Inputs (orders, 40, 5) and targets (orders, 40, 2) of one set, shuffled."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(40, 5)) * [3.0, 1.0, 1.0, 0.3, 0.1]
    targets = inputs @ rng.normal(size=(5, 2)) + rng.normal(size=(40, 2))
    by = np.array([rng.permutation(40) for _ in range(orders)])
    return inputs[by], targets[by]


def one_pass(inputs, targets, of_inputs):
    """The weights behind one pass of the library's part, a step an example."""
    scale = classp_jax.scale_by_accumulated_gram(DAMPING, refresh_every=1)

    @jax.vmap
    def run(inputs, targets):
        def step(carry, example):
            weights, state = carry
            x, y = example
            residual = x @ weights - y
            if of_inputs:
                updates, state = scale.update(x[:, None], state)
                updates = updates * residual
            else:
                updates, state = scale.update(jnp.outer(x, residual), state)
            return (weights - updates / DAMPING, state), None

        weights = jnp.zeros([inputs.shape[1], targets.shape[1]])
        state = scale.init(weights[:, :1] if of_inputs else weights)
        return jax.lax.scan(step, (weights, state), (inputs, targets))[0][0]

    with helpers.enable_x64(True):
        return jax.device_get(jax.jit(run)(inputs, targets))


def test_of_inputs_it_ends_at_the_ridge_solution_in_any_order():
    inputs, targets = examples(5, orders=20)
    weights = one_pass(inputs, targets, of_inputs=True)
    x, y = inputs[0], targets[0]
    ridge = np.linalg.solve(DAMPING * np.eye(5) + x.T @ x, x.T @ y)
    np.testing.assert_allclose(
        weights, np.broadcast_to(ridge, weights.shape), rtol=1e-10
    )
    # Of gradients it depends on the order: they are weighted by what was wrong then.
    weights = one_pass(inputs, targets, of_inputs=False)
    assert np.max(np.std(weights, 0)) > 0.05


@pytest.mark.parametrize("refresh_every", [1, 8])
def test_of_gradients_it_ends_at_the_minimum_of_all_steps_models(refresh_every):
    rate = 0.3
    updates, sums = run_on_matrices(1.0, refresh_every)
    gradients = np.moveaxis(gradients_of_matrices(), 1, 0)
    weights = -rate * np.cumsum(updates, 1)  # Behind each step, from 0.
    earlier = np.concatenate([np.zeros_like(weights[:, :1]), weights[:, :-1]], 1)
    # Where the sum of all models, and of what holds to the start, has no slope.
    pull = np.diff(sums, axis=1) @ earlier - rate * DAMPING * gradients
    minimum = np.linalg.solve(sums[:, -1], pull.sum(1))
    off = np.abs(weights[:, -1] - minimum).max((1, 2)) / np.abs(minimum).max((1, 2))
    assert np.all(off < 1e-9) if refresh_every == 1 else np.max(off) > 0.1


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_gradients_vanish_as_fast_as_stated(power):
    # Of sums of waves 1 - cos, in random settings.
    streams, weights, steps = 300, 4, 400
    rng = np.random.default_rng(6)
    waves = np.float32(rng.normal(size=(streams, weights, weights)))
    starts = np.float32(rng.normal(scale=3, size=(streams, weights)))
    rate, eps = np.float32(np.exp(rng.uniform([[-5], [-5]], [[2], [5]], (2, streams))))
    threshold = np.float32(np.arange(streams) % 2 * 0.9)
    smoothness = np.linalg.norm(waves, 2, (1, 2)) ** 2

    @jax.jit
    @jax.vmap
    def run(waves, start, rate, eps, threshold):
        optimizer = classp_jax.classp(
            rate, threshold, power=power, eps=eps, relative=True
        )

        def step(carry, _):
            params, opt_state = carry
            loss = jnp.sum(2 * jnp.square(jnp.sin(waves @ params / 2)))
            gradient = waves.T @ jnp.sin(waves @ params)
            updates, opt_state = optimizer.update(gradient, opt_state)
            params = optax.apply_updates(params, updates)
            divisor = (eps + grad_sum(opt_state)) ** (1 / power)
            return (params, opt_state), (loss, gradient, updates, divisor)

        return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1]

    found = run(waves, starts, rate, eps, threshold)
    losses, gradients, updates, divisors = map(np.float64, found)
    passed = np.where(updates != 0, gradients, 0)
    early = np.maximum(np.log((smoothness * rate) ** power / eps), 0)
    cost = 2 / rate * (losses[:, 0] + smoothness * rate**2 / 2 * weights * early)
    paid = np.sum(passed**2 / divisors, (1, 2)) / cost
    assert np.all(paid <= 1) and np.max(paid) > 0.45
    if power == 2:
        squares = np.sum(gradients**2, (1, 2))
        share = squares * (1 - threshold) / (cost * (cost + 2 * np.sqrt(eps)))
    else:
        least, first = np.min(np.sum(np.abs(passed), 2), 1), weights * eps
        growth = np.log((first + least * steps) / np.maximum(first, 4 * cost))
        share = least * growth / (2 * np.log(2) * cost)
    assert np.all(share <= 1) and np.max(share) > 0.1


def test_no_gradient_need_vanish_faster_for_power_1():
    # As a weight must have had exp(length / rate) times eps to have gone so far.
    length, rate, eps = 9.0, 1.0, 1.0
    steps = int(eps * (np.exp(length / rate) - 1))

    def gradients(power):
        optimizer = classp_jax.classp(rate, power=power, eps=eps)

        @jax.jit
        def run(start):
            def step(carry, _):
                params, opt_state = carry
                gradient = jnp.clip(params, -1, 1)  # Of a loss of smoothness 1.
                updates, opt_state = optimizer.update(gradient, opt_state)
                return (optax.apply_updates(params, updates), opt_state), gradient

            return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1]

        return run(jnp.float32(length + 1))

    assert np.min(gradients(1.0)) == 1 and gradients(2.0)[-1] < 1e-3
    cost = 2 * (length + 0.5) / rate
    allowed = 2 * np.log(2) * cost / np.log((eps + steps) / max(eps, 4 * cost))
    assert 1 < allowed < 6


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.999])
def test_a_relative_threshold_below_1_lets_its_share_of_the_gradient_pass(threshold):
    rng = np.random.default_rng(7)
    scale = np.exp(rng.normal(scale=3, size=(500, 24)))
    gradients = rng.normal(size=(500, 24)) * np.where(
        rng.random((500, 1)) < 0.5, 1, scale
    )
    # All but one are just below the threshold; this one has what is left of the mean.
    below = np.sqrt(threshold * (1 - 1e-5))
    worst = np.full(24, below)
    worst[0] = np.sqrt(24 - 23 * below**2)
    mask = classp_jax.threshold_mask(threshold, relative=True)
    gradients = jnp.float32(np.vstack([gradients, worst]))
    update = jax.vmap(lambda g: mask.update(g, mask.init(g))[0])
    updates = jax.jit(update)(gradients)
    squares = [np.sum(np.float64(g) ** 2, 1) for g in (updates, gradients)]
    share = squares[0] / squares[1]
    assert np.all(share >= (1 - threshold) / FLOAT32)
    np.testing.assert_allclose(
        share[-1], 1 - threshold * 23 / 24, rtol=1e-3 / (1 - threshold)
    )
    at_1 = classp_jax.threshold_mask(1.0, relative=True)
    ones = jnp.ones(24)
    assert not np.any(at_1.update(ones, at_1.init(ones))[0])


def test_an_absolute_threshold_leaves_a_floor_and_a_relative_one_does_not():
    curvature, threshold, weights = 2.0, 0.09, 5
    floor = weights * threshold / (2 * curvature)
    start = jnp.float32(np.random.default_rng(8).uniform(1, 3, weights))

    def last_loss(threshold, relative):
        optimizer = classp_jax.classp(
            0.3, threshold, power=2.0, eps=1.0, relative=relative
        )

        @jax.jit
        def run(params):
            def step(_, carry):
                params, opt_state = carry
                updates, opt_state = optimizer.update(curvature * params, opt_state)
                return optax.apply_updates(params, updates), opt_state

            carry = params, optimizer.init(params)
            return jax.lax.fori_loop(0, 3_000, step, carry)[0]

        return curvature / 2 * jnp.sum(jnp.square(run(start)))

    assert 0.9 * floor < last_loss(threshold, relative=False) <= floor
    assert last_loss(0.9, relative=True) < 1e-6 * floor


class Boxed(nnx.Module):
    def __init__(self):
        self.kernel, self.bias = nnx.Param(jnp.ones((2, 2))), nnx.Param(jnp.ones(2))


PARAMS = {
    "dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    "scale": jnp.ones(2),
}
WRAPPED = {
    "chain": (lambda tx: optax.chain(optax.clip(9.0), tx), PARAMS),
    "multi_steps": (
        lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
        PARAMS,
    ),
    "partition": (
        lambda tx: optax.partition(
            {"a": tx, "b": tx}, {"dense": {"kernel": "a", "bias": "b"}, "scale": "b"}
        ),
        PARAMS,
    ),
    "partition of whole subtrees": (
        lambda tx: optax.partition({"a": tx, "b": tx}, {"dense": "a", "scale": "b"}),
        PARAMS,
    ),
    "masked": (lambda tx: optax.masked(tx, {"dense": True, "scale": False}), PARAMS),
    "per_layer": (classp_jax.per_layer, PARAMS),
    "nnx": (lambda tx: tx, nnx.state(Boxed())),
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_bounds_are_found_in_any_state_and_shaped_like_the_parameters(wrap):
    masked = wrap == "masked"
    wrap, params = WRAPPED[wrap]
    optimizer = wrap(classp_jax.classp(0.5, eps=1.0))
    before = optimizer.init(params)
    # One step of 1, with which each sum goes from 0 to 1, and eps + sum from 1 to 2.
    after = jax.tree.map(lambda x: np.asarray(x) + np.ones([], x.dtype), before)
    bound = compiled_bound(before, after, 0.5, eps=1.0)
    expected = jax.tree.map(lambda p: np.full(p.shape, 0.25), params)  # 0.5 * 1 / 2
    if masked:
        expected["scale"] = optax.MaskedNode()
    chex.assert_trees_all_close(bound, expected, rtol=1e-6)


SCALE = classp_jax.scale_by_accumulated_power_norm()
TWICE = optax.chain(SCALE, SCALE)
KERNEL = {"kernel": (4, 3)}


@pytest.mark.parametrize(
    ("optimizers", "shapes", "message"),
    [
        ([optax.sgd(0.1)] * 2, [KERNEL] * 2, "no CLASSP accumulator"),
        ([classp_jax.classp_gram(0.1)] * 2, [KERNEL] * 2, "no CLASSP accumulator"),
        (
            [classp_jax.classp(0.1, factored=True)] * 2,
            [KERNEL] * 2,
            "factored sum bounds no single weight",
        ),
        ([TWICE] * 2, [KERNEL] * 2, "Two accumulators have a sum of the same weight"),
        ([SCALE, TWICE], [KERNEL] * 2, "same optimizer, got 1 and 2 accumulators"),
        ([SCALE] * 2, [KERNEL, {"bias": [3]}], "same optimizer.*kernel.*bias"),
        ([SCALE] * 2, [KERNEL, {"kernel": [3]}], r"same optimizer.*\(4, 3\).*\(3,\)"),
    ],
)
def test_what_has_no_bound_is_refused(optimizers, shapes, message):
    def state(optimizer, shapes):
        return optimizer.init({name: jnp.ones(of) for name, of in shapes.items()})

    with pytest.raises(ValueError, match=message):
        compiled_bound(*map(state, optimizers, shapes), 0.1)


def test_a_state_that_is_the_earlier_one_is_refused():
    before = SCALE.init(jnp.ones(3))
    after = before._replace(count=before.count + 1)
    assert np.all(displacement_bound(before, after, 0.1) == 0)
    with pytest.raises(ValueError, match="before must be the earlier state"):
        displacement_bound(after, before, 0.1)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (dict(learning_rate=optax.constant_schedule(0.1)), TypeError),
        (dict(learning_rate=0.0), ValueError),
        (dict(power=0), ValueError),
        (dict(eps=-1.0), ValueError),
        (dict(eps=lambda step: 1.0), TypeError),
        (dict(bounded=1), TypeError),
        (dict(include_current=None), TypeError),
    ],
)
def test_hyperparameters_are_checked(settings, error):
    state = SCALE.init(jnp.ones(3))
    (name,) = settings
    with pytest.raises(error, match=f"{name} must be"):
        displacement_bound(state, state, **dict(learning_rate=0.1) | settings)
