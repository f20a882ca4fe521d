"""Sums of directions, against a loop in NumPy and an optimizer in PyTorch."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import classp_jax
from classp_jax._gram_sketch import SketchedScaling
from tests import helpers
from tests.reference.optimizer import ClasspGram

pytestmark = pytest.mark.usefixtures("few_compiled_functions")

# Of equal arguments one transformation, so that tests share its programs.
shared_scale = functools.cache(classp_jax.scale_by_accumulated_gram)
shared_classp = functools.cache(classp_jax.classp_gram)

SHAPES = {
    "kernel": (6, 4),
    "bias": (4,),
    "scale": (),
    "window": (2, 2, 3, 5),
    "tall": (19, 2),
    "empty": (0, 5),
}


def gradients(steps, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return [
        {k: jnp.asarray(rng.normal(size=s), dtype) for k, s in SHAPES.items()}
        for _ in range(steps)
    ]


def run(optimizer, stream, params=None):
    """The updates of every step, and the last state."""
    params = jax.tree.map(jnp.zeros_like, stream[0]) if params is None else params
    state, found = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for grads in stream:
        updates, state = update(grads, state, params)
        found.append(updates)
    return found, state


def by_numpy(stream, damping, exponent, refresh_every, max_dim, memory):
    """The definition in float64, tensor by tensor, block by block."""
    found = [{} for _ in stream]
    for name, shape in SHAPES.items():
        rows, columns = math.prod(shape[:-1]), shape[-1] if shape else 1
        blocks = max(1, -(-rows // max_dim))
        height = max(1, -(-rows // blocks))
        parts = [np.arange(rows)[k : k + height] for k in range(0, rows, height)]
        sums = [np.zeros((len(part), len(part))) for part in parts]
        factors = [None] * len(parts)
        for step, grads in enumerate(stream):
            g = np.float64(grads[name]).reshape(rows, columns)
            update = np.zeros_like(g)
            for k, part in enumerate(parts):
                sums[k] = (1 - 1 / memory) * sums[k] + g[part] @ g[part].T
                if step % refresh_every == 0:
                    values, vectors = np.linalg.eigh(sums[k])
                    scaled = (1 + np.maximum(values, 0) / damping) ** -exponent
                    factors[k] = vectors * scaled @ vectors.T
                update[part] = factors[k] @ g[part]
            found[step][name] = update.reshape(shape)
    return found


@pytest.mark.parametrize("max_dim", [7, 1024])
@pytest.mark.parametrize("refresh_every", [1, 3])
@pytest.mark.parametrize(
    ("exponent", "memory"), [(0.5, math.inf), (1.0, math.inf), (1.0, 3.0), (2.0, 9.0)]
)
def test_it_is_what_the_formula_says(exponent, memory, refresh_every, max_dim):
    stream = gradients(7)
    settings = dict(exponent=exponent, refresh_every=refresh_every, max_dim=max_dim)
    settings["memory"] = memory
    found, _ = run(classp_jax.scale_by_accumulated_gram(2.0, **settings), stream)
    expected = by_numpy(stream, 2.0, **settings)
    chex.assert_trees_all_close(found, expected, rtol=3e-5, atol=1e-5)


def outputs_first(x):
    """As PyTorch has it; a window's inputs in the order of the rows."""
    x = x.reshape(-1, x.shape[-1]).T if x.ndim > 1 else x
    return torch.tensor(x)


@pytest.mark.parametrize(
    ("exponent", "memory"), [(0.5, 3.0), (1.0, math.inf), (1.0, 20.0)]
)
def test_it_agrees_with_pytorch_in_float64_along_a_gate(exponent, memory):
    rng = np.random.default_rng(3)
    shapes = {"kernel": (6, 4), "bias": (4,), "window": (2, 2, 3, 5)}
    weights = {k: rng.normal(size=s) for k, s in shapes.items()}
    theirs = {k: outputs_first(w).requires_grad_() for k, w in weights.items()}
    settings = dict(damping=0.5, exponent=exponent, max_dim=5, memory=memory)
    settings["refresh_every"] = 1
    optimizer = ClasspGram(theirs.values(), lr=0.1, **settings)
    with helpers.enable_x64(True):
        mine = jax.tree.map(jnp.asarray, weights)
        solver = classp_jax.classp_gram(
            0.1, **settings, apply_decay=lambda step: step >= 2
        )
        opt_state, update = solver.init(mine), jax.jit(solver.update)
        for step in range(6):
            grads = {k: rng.normal(size=s) for k, s in shapes.items()}
            for k, w in theirs.items():
                w.grad = outputs_first(grads[k])
            optimizer.param_groups[0]["apply_decay"] = step >= 2
            optimizer.step()
            updates, opt_state = update(grads, opt_state, mine)
            mine = optax.apply_updates(mine, updates)
        mine = {k: outputs_first(np.asarray(w)) for k, w in mine.items()}
        for k, w in theirs.items():
            torch.testing.assert_close(mine[k], w.detach(), rtol=1e-11, atol=1e-11)


def test_the_optimizer_is_the_chain_that_its_docstring_shows():
    chain = optax.chain(
        classp_jax.threshold_mask(0.25),
        classp_jax.decay_gate(
            classp_jax.scale_by_accumulated_gram(0.5), lambda step: step >= 1
        ),
        optax.scale_by_learning_rate(0.1),
    )
    whole = classp_jax.classp_gram(0.1, 0.5, 0.25, apply_decay=lambda step: step >= 1)
    chex.assert_trees_all_equal(
        *(run(optimizer, gradients(4))[0] for optimizer in (chain, whole))
    )


# Of a product with all eigenvectors: up to 9 units in the last place, by the machine.
ROUNDING = 16 * np.finfo(np.float32).eps


def matrices(scaling):
    """The factor of each tensor, block by block, as a matrix."""
    for node in jax.tree.leaves(scaling, is_leaf=is_sketched):
        if is_sketched(node):
            basis, rest = map(np.float64, node)
            yield rest * (np.eye(len(basis)) - basis @ basis.T)
        else:
            yield from np.float64(node)


def is_sketched(node):
    return isinstance(node, SketchedScaling)


# At the lowest version allowed, explicit axes are an experiment of JAX's, and arrays to
# be cut alike a hint: a matrix that is cut has a second program compiled.
HAS_SHARDY = hasattr(jax.sharding, "reshard")
KEPT = [{}, {"max_dim": 7}, {"rank": 4}]


@pytest.mark.parametrize("kept", KEPT, ids=str)
@pytest.mark.parametrize("exponent", [0.5, 1.0, 3.0])
def test_the_factor_neither_lengthens_nor_turns_around(exponent, kept):
    scale = classp_jax.scale_by_accumulated_gram(
        1e-3, exponent=exponent, refresh_every=1, **kept
    )
    for size in (1e-12, 1.0, 1e4, 1e12):
        stream = [
            jax.tree.map(lambda g, size=size: g * size, gs) for gs in gradients(5)
        ]
        found, state = run(scale, stream)
        for factor in matrices(state.scaling):
            values = np.linalg.eigvalsh(factor)
            assert np.all(values > -ROUNDING) and np.all(values < 1 + ROUNDING)
        for u, g in zip(jax.tree.leaves(found), jax.tree.leaves(stream), strict=True):
            assert np.linalg.norm(u) <= np.linalg.norm(g) * (1 + 1e-6)
            assert np.vdot(u / size, g / size) >= -1e-6 * u.size


@pytest.mark.parametrize(("exponent", "memory"), [(0.5, 4.0), (1.0, math.inf)])
def test_a_sketch_of_enough_columns_is_the_sum_in_full(exponent, memory):
    rng = np.random.default_rng(0)
    few = rng.normal(size=(40, 3))  # The inputs' directions.
    stream = [jnp.float32(few @ rng.normal(size=(3, 5))) for _ in range(6)]
    settings = dict(damping=2.0, exponent=exponent, refresh_every=2, memory=memory)
    full, _ = run(classp_jax.scale_by_accumulated_gram(**settings), stream)
    sketched = classp_jax.scale_by_accumulated_gram(**settings, rank=6)
    found, state = run(sketched, stream)
    chex.assert_trees_all_close(found, full, rtol=1e-3, atol=1e-4)
    assert state.gram.products.shape == (40, 6)
    left = (1 - 1 / memory) ** np.arange(6)[::-1]
    assert state.gram.trace == pytest.approx(left @ [np.sum(g**2) for g in stream])


def power_law_factor(products, test, trace, damping, exponent):
    """The definition of a sketch's factor in float64."""
    rows, rank = test.shape
    root = np.linalg.cholesky(test.T @ products)
    vectors, half, _ = np.linalg.svd(np.linalg.solve(root, products.T).T, False)
    values, j = half**2, rank // 4
    decay = 1 + j * values[j - 1] / (trace - np.sum(values[:j]))
    others = values[j - 1] * (np.arange(rank + 1, rows + 1) / j) ** -decay
    rest = np.mean((1 + others / damping) ** -exponent)
    seen = np.minimum((1 + values / damping) ** -exponent, rest)
    return rest * np.eye(rows) + (vectors * (seen - rest)) @ vectors.T


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_what_a_sketch_leaves_falls_off_as_a_power_of_the_rank(exponent):
    rows, rank = 300, 64
    lengths = np.arange(1, rows + 1) ** -1.0
    damping = lengths[rank] ** 2 / 10
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(rows, rows)))[0]
    scale = classp_jax.scale_by_accumulated_gram(
        damping, exponent=exponent, refresh_every=1, rank=rank
    )
    _, state = run(scale, [jnp.float32(turn * lengths)])
    _, of_identity = run(scale, [jnp.eye(rows)])
    total, test = (turn * lengths**2) @ turn.T, np.float64(of_identity.gram.products)
    factor = power_law_factor(total @ test, test, np.sum(lengths**2), damping, exponent)
    (actual,) = matrices(state.scaling)
    np.testing.assert_allclose(actual, factor, rtol=0.01, atol=0.01)
    # Not half as far off as if what is left lay evenly in all other directions.
    exact = np.mean((1 + lengths[rank:] ** 2 / damping) ** -exponent)
    evenly = (1 + np.mean(lengths[rank:] ** 2) / damping) ** -exponent
    assert abs(state.scaling.rest - exact) < 0.5 * abs(evenly - exact)


def test_what_a_sketch_tells_is_slower_than_the_rest_or_as_slow():
    rng = np.random.default_rng(0)
    # One long direction and 59 short ones, of which 4 columns tell little.
    scales = np.r_[3.0, np.full(59, 0.1)]
    stream = [jnp.float32(scales[:, None] * rng.normal(size=(60, 50)))] * 4
    scale = classp_jax.scale_by_accumulated_gram(1.0, refresh_every=1, rank=4)
    _, state = run(scale, stream)
    (factor,) = matrices(state.scaling)
    values = np.linalg.eigvalsh(factor)
    np.testing.assert_allclose(values[4:], state.scaling.rest, rtol=1e-4)
    assert np.all(values[:4] <= state.scaling.rest * (1 + 1e-5))
    total = sum(np.float64(g) @ np.float64(g).T for g in stream)
    assert 1 / values[0] - 1 == pytest.approx(total[0, 0], rel=0.05)


@pytest.mark.parametrize("kept", KEPT, ids=str)
def test_without_history_to_speak_of_it_is_sgd(kept):
    found, _ = run(classp_jax.classp_gram(0.5, 1e30, **kept), gradients(3))
    expected, _ = run(optax.sgd(0.5), gradients(3))
    chex.assert_trees_all_equal(found, expected)


def test_turning_the_inputs_turns_the_updates():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    stream = [gs["kernel"] for gs in gradients(4)]
    scale = classp_jax.scale_by_accumulated_gram(0.1, refresh_every=1)
    plain, _ = run(scale, stream)
    turned, _ = run(scale, [jnp.float32(turn @ g) for g in stream])
    chex.assert_trees_all_close([turn @ u for u in plain], turned, atol=1e-5)


def test_a_direction_without_gradient_so_far_is_free():
    scale = classp_jax.scale_by_accumulated_gram(0.1, refresh_every=1)
    old = jnp.outer(jnp.array([1.0, 1.0, 0.0]), jnp.array([1.0, -2.0]))
    new = jnp.outer(jnp.array([1.0, -1.0, 3.0]), jnp.array([0.5, 0.5]))
    *_, state = run(scale, [old] * 20)
    chex.assert_trees_all_close(state.scaling[0] @ new, new, rtol=1e-3)
    slowed = state.scaling[0] @ old
    chex.assert_trees_all_close(slowed, old / (1 + 200 / 0.1), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("kept", KEPT, ids=str)
def test_an_element_that_has_no_finite_square_counts_as_0(bad, kept):
    scale = shared_scale(0.1, refresh_every=1, **kept)
    stream = gradients(3)
    spoiled = [jax.tree.map(jnp.copy, gs) for gs in stream]
    for clean, other in zip(stream, spoiled, strict=True):
        clean["kernel"] = clean["kernel"].at[1, 2].set(0)
        other["kernel"] = other["kernel"].at[1, 2].set(bad)
    chex.assert_trees_all_equal(run(scale, stream), run(scale, spoiled))


@pytest.mark.parametrize("kept", KEPT, ids=str)
def test_a_sum_that_would_overflow_stays_as_it_is(kept):
    scale = classp_jax.scale_by_accumulated_gram(1.0, refresh_every=1, **kept)
    huge = jnp.full((9, 4), 1e19)
    found, state = run(scale, [jnp.eye(9, 4), huge, huge])
    assert all(np.all(np.isfinite(u)) for u in found)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kept", KEPT, ids=str)
def test_weights_of_16_bits_have_sums_of_32(dtype, kept):
    scale = shared_scale(0.1, refresh_every=1, **kept)
    stream = gradients(4, dtype=dtype)
    found, state = run(scale, stream)
    wide = [jax.tree.map(jnp.float32, gs) for gs in stream]
    expected, state32 = run(scale, wide)
    chex.assert_trees_all_equal(state.gram, state32.gram)
    chex.assert_trees_all_equal_dtypes(found, stream)
    expected = jax.tree.map(lambda u: u.astype(dtype), expected)
    chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize("kept", KEPT, ids=str)
def test_gradients_that_are_none_change_nothing(kept):
    scale = shared_scale(0.1, refresh_every=1, memory=9.0, **kept)
    first, second = gradients(2)
    *_, state = run(scale, [first])
    updates, after = jax.jit(scale.update)({**second, "kernel": None}, state)
    assert updates["kernel"] is None
    chex.assert_trees_all_equal(after.gram["kernel"], state.gram["kernel"])
    assert np.any(after.gram["bias"] != state.gram["bias"])


def test_damping_changes_at_the_next_refresh_without_compiling_again():
    make = optax.inject_hyperparams(
        classp_jax.classp_gram,
        static_args=("exponent", "refresh_every", "max_dim", "rank"),
    )
    injected = make(0.1, damping=1.0, refresh_every=2)
    traces = []

    @jax.jit
    def update(grads, state):
        traces.append(None)
        return injected.update(grads, state)

    (grads,) = gradients(1)
    state, found = injected.init(grads), []
    for step in range(4):
        if step == 1:
            state = classp_jax.set_hyperparameters(state, damping=1e-3)
        updates, state = update(grads, state)
        found.append(float(jnp.linalg.norm(updates["kernel"])))
    assert len(traces) == 1
    assert found[0] == pytest.approx(found[1]) and found[2] < 0.1 * found[1]
    assert found[2] == pytest.approx(found[3])


def test_a_refresh_is_made_where_it_is_called_for():
    every_third, on_call = (
        classp_jax.classp_gram(0.1, 0.5, refresh_every=every) for every in (3, None)
    )
    stream = gradients(6)
    expected, _ = run(every_third, stream)
    state, update = on_call.init(stream[0]), jax.jit(on_call.update)
    for step, (grads, u) in enumerate(zip(stream, expected, strict=True)):
        updates, state = update(grads, state, refresh=step == 3)
        chex.assert_trees_all_equal(updates, u)
    assert update._cache_size() == 1
    never_again, _ = run(on_call, stream)
    for step, u in enumerate(expected):
        same = jnp.allclose(never_again[step]["kernel"], u["kernel"], rtol=1e-3)
        assert same == (step < 3)


@pytest.mark.parametrize("kept", KEPT, ids=str)
def test_side_by_side_it_is_each_alone(kept):
    scale = classp_jax.scale_by_accumulated_gram(0.1, refresh_every=2, **kept)
    streams = [gradients(3, seed) for seed in (0, 1)]
    alone = [run(scale, stream)[0] for stream in streams]
    together = [
        jax.tree.map(lambda *g: jnp.stack(g), *gs) for gs in zip(*streams, strict=True)
    ]
    state, update = jax.vmap(scale.init)(together[0]), jax.jit(jax.vmap(scale.update))
    for step, grads in enumerate(together):
        updates, state = update(grads, state)
        expected = jax.tree.map(lambda *u: jnp.stack(u), *(a[step] for a in alone))
        tolerance = 1e-3 if "rank" in kept else 1e-5
        chex.assert_trees_all_close(updates, expected, rtol=tolerance, atol=tolerance)


def test_it_learns_in_an_nnx_optimizer():
    model = helpers.Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, classp_jax.classp_gram(0.5, 10.0), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 6)), jnp.float32)
    labels = jnp.argmax(x[:, :3], -1)

    @nnx.jit
    def step(model, optimizer):
        def loss_fn(model):
            losses = optax.softmax_cross_entropy_with_integer_labels(model(x), labels)
            return jnp.mean(losses)

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("axes", [AxisType.Auto, *[AxisType.Explicit] * HAS_SHARDY])
@pytest.mark.parametrize("spec", [(), ("data",), (None, "data")])
@pytest.mark.parametrize("kept", [*KEPT, {"max_dim": 3}], ids=str)
def test_on_a_mesh_it_is_the_same_and_compiles_once(spec, axes, kept):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axes,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    place = {
        "kernel": NamedSharding(mesh, PartitionSpec(*spec)),
        "bias": everywhere,
    }
    stream = [
        {"kernel": gs["window"].reshape(12, 5)[:, :4], "bias": gs["bias"]}
        for gs in gradients(3)
    ]
    arguments = dict(learning_rate=0.1, damping=0.5, refresh_every=2, **kept)
    expected, _ = run(shared_classp(**arguments), stream)
    optimizer = classp_jax.classp_gram(**arguments)
    params = jax.device_put(jax.tree.map(jnp.zeros_like, stream[0]), place)
    state, update = optimizer.init(params), jax.jit(optimizer.update, donate_argnums=1)
    compiled = jax.jit(optimizer.init)(params)
    for grads, u in zip(stream, expected, strict=True):
        before = state
        updates, state = update(jax.device_put(grads, place), state, params)
        if HAS_SHARDY or not any(spec):
            assert all(x.is_deleted() for x in jax.tree.leaves(before))
        # What four columns leave of the first sum is its rounding.
        atol = 1e-5 if "rank" in kept else 1e-6
        chex.assert_trees_all_close(updates, u, rtol=1e-5, atol=atol)
    if any(spec) and not HAS_SHARDY:
        return  # The compiler lays a cut state as it likes, and compiles again.
    assert update._cache_size() == 1
    # The sketch's rows, or four blocks, lie where the matrix's rows do.
    even = kept in ({"rank": 4}, {"max_dim": 3})
    parts = 4 if even and spec == ("data",) and axes is AxisType.Auto else 1
    for where in (state, *[compiled] * HAS_SHARDY):
        sums = [optax.tree.get(where, name)["kernel"] for name in ("gram", "scaling")]
        for x in jax.tree.leaves(sums):
            here = x.addressable_shards[0].data
            assert x.ndim == 0 or len(here) == len(x) / parts


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="newer than the lowest JAX")
@pytest.mark.parametrize("kept", KEPT, ids=str)
@pytest.mark.parametrize("spec", [("data",), (None, "data")])
def test_inside_shard_map_a_shard_is_a_tensor(spec, kept):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    cut = PartitionSpec(*spec)
    matrix = gradients(1)[0]["window"].reshape(12, 5)[:, :4]
    optimizer = classp_jax.classp_gram(0.1, 0.5, refresh_every=2, **kept)

    def train(matrix):
        state = optimizer.init(matrix)
        for _ in range(3):
            updates, state = optimizer.update(matrix, state)
            matrix = optax.apply_updates(matrix, updates)
        return matrix

    inside = jax.jit(jax.shard_map(train, mesh=mesh, in_specs=cut, out_specs=cut))
    axis = len(spec) - 1
    shards = [jax.jit(train)(shard) for shard in jnp.split(matrix, 4, axis)]
    expected = jnp.concatenate(shards, axis)
    chex.assert_trees_all_close(inside(matrix), expected, rtol=1e-5, atol=1e-6)
    assert jnp.max(jnp.abs(expected - train(matrix))) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(damping=0.0), ValueError, "damping must be finite and above 0"),
        (dict(damping="x"), TypeError, "damping must be a number or a schedule"),
        (dict(exponent=0), ValueError, "exponent must be finite and above 0"),
        (dict(exponent=jnp.ones([])), TypeError, "add 'exponent' to static_args"),
        (dict(exponent=lambda step: 1.0), TypeError, "exponent must be a number"),
        (dict(refresh_every=0), ValueError, "refresh_every must be at least 1"),
        (dict(refresh_every=jnp.ones([], int)), TypeError, "to static_args"),
        (dict(rank=0), ValueError, "rank must be at least 1"),
        (dict(memory=1), ValueError, "memory must be above 1"),
        (dict(max_dim=2.5), TypeError, "max_dim must be an integer"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        classp_jax.classp_gram(0.1, **arguments)


def test_complex_weights_are_refused():
    with pytest.raises(ValueError, match="complex"):
        classp_jax.scale_by_accumulated_gram().init({"w": jnp.ones(3, complex)})
