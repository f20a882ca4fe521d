"""Gates that open by themselves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding, PartitionSpec

import classp_jax
from tests import helpers

pytestmark = pytest.mark.usefixtures("few_compiled_functions")


def opened_at(losses, signal=None):
    """At which of some losses the signal is given."""
    signal = signal or classp_jax.loss_jump()

    @jax.jit
    def run(losses):
        def step(state, loss):
            shut = state._replace(is_open=jnp.asarray(False))
            state = signal.update(shut, value=loss)
            return state, state.is_open

        return jax.lax.scan(step, signal.init(), losses)[1]

    return np.flatnonzero(run(jnp.asarray(losses, jnp.float32))).tolist()


def falling(steps, seed=0, end=0.1):
    """A loss as of training: from 2.3 down, with half of it noise."""
    rng = np.random.default_rng(seed)
    mean = end + (2.3 - end) * np.exp(-np.arange(steps) / 60)
    return mean * rng.gamma(4, 1 / 4, steps)


@pytest.mark.parametrize("seed", range(5))
def test_a_falling_noisy_loss_gives_none_and_a_new_task_one(seed):
    assert opened_at(falling(1000, seed)) == []
    at = opened_at([*falling(1000, seed), *falling(200, seed + 10)])
    assert 1000 <= at[0] < 1010


def test_a_loss_near_zero_may_be_noisy():
    losses = np.full(500, 1e-3)
    losses[::50] = 0.3  # Ten times the margin's worth, and hundreds of times the mean.
    assert opened_at(losses) == []
    assert opened_at(losses, classp_jax.loss_jump(margin=0.0)) != []


def test_it_is_the_formula():
    losses = np.random.default_rng(0).gamma(2.0, 1.0, 60)
    signal = classp_jax.loss_jump(1.2, 0.05, 0.5, 0.8)

    def mean(t, decay):
        """Of the first t + 1 losses, weighted by their age."""
        weights = decay ** np.arange(t, -1, -1)
        return np.sum(weights * losses[: t + 1]) / np.sum(weights)

    expected = [t for t in range(60) if mean(t, 0.5) > 1.2 * mean(t, 0.8) + 0.05]
    assert 0 < len(expected) < 60
    assert opened_at(losses, signal) == expected


def test_a_loss_that_is_not_finite_is_left_out():
    losses = falling(300)
    signal = classp_jax.loss_jump()
    state = signal.init()
    for loss in (np.nan, np.inf, 0.5, np.nan, -np.inf):
        state = signal.update(state, value=jnp.float32(loss))
        assert not state.is_open
    assert state.signal_state.fast == state.signal_state.slow == 0.5
    bad = np.insert(losses, [0, 100, 299], np.nan)
    assert opened_at(bad) == opened_at(losses) == []


def test_the_largest_losses_leave_the_means_finite():
    jump = classp_jax.loss_jump()
    state = jump.init()
    for loss in (3e38, -3e38, 3e38, 0.1):
        state = jump.update(state, value=loss)
    assert all(map(np.isfinite, state.signal_state))


def test_a_loss_below_zero_jumps_by_its_size():
    assert opened_at(falling(300) - 5) == opened_at(np.full(300, -5.0)) == []
    # The slow mean is -5: by its size, and the margin, above it.
    signal = classp_jax.loss_jump(fast=0.0)
    assert opened_at([*np.full(300, -5.0), 0.0], signal) == []
    assert opened_at([*np.full(300, -5.0), 0.2], signal) == [300]


def self_opening(gate=None, **hyperparameters):
    """CLASSP with a gate that opens by itself, beside injected numbers."""
    make = optax.inject_hyperparams(
        classp_jax.classp, static_args="power", hyperparam_dtype=jnp.float32
    )
    return make(0.1, apply_decay=gate or classp_jax.loss_jump(), **hyperparameters)


def opens_where(test):
    """A gate that opens by the loss alone; its state counts the steps."""
    return classp_jax.gate_signal(
        lambda: jnp.zeros([], jnp.int32), lambda value, count: (test(value), count + 1)
    )


def is_open(opt_state):
    return bool(opt_state.hyperparams["apply_decay"])


def steps(optimizer, losses, **names):
    """Updates of each step, of constant gradients."""
    params = jnp.array([1.0, -2.0])

    @jax.jit
    def run(losses):
        def step(opt_state, loss):
            extra = {"value": loss} if "value" in names else {}
            grads = jnp.array([0.5, 0.1])
            updates, opt_state = optimizer.update(grads, opt_state, params, **extra)
            return opt_state, updates

        return jax.lax.scan(step, optimizer.init(params), losses)

    opt_state, of_steps = run(jnp.asarray(losses, jnp.float32))
    return of_steps, opt_state


def test_from_the_signal_on_it_is_the_optimizer_with_the_gate_open():
    losses = [*np.full(100, 0.2), *np.full(5, 9.0), *np.full(100, 0.2)]
    solver = self_opening()
    actual, opt_state = steps(solver, losses, value=True)
    (first, *_) = opened_at(losses)
    # Announced, at the same step.
    announced = classp_jax.classp(0.1, apply_decay=lambda step: step >= first)
    expected, _ = steps(announced, losses)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)
    assert is_open(opt_state)  # Also after the loss has long been small again.
    assert opt_state.hyperparams_states["apply_decay"].is_open
    closed, opt_state = steps(solver, np.full(100, 0.2), value=True)
    expected, _ = steps(classp_jax.classp(0.1, apply_decay=False), np.full(100, 0.2))
    chex.assert_trees_all_equal(closed, expected)
    assert not is_open(opt_state)


def test_it_is_the_loop_written_out():
    rng = np.random.default_rng(0)
    losses = np.concatenate([rng.gamma(9, 0.02, 150), rng.gamma(9, 0.3, 50)])
    gradients = rng.normal(size=(200, 5)).astype(np.float32)
    means, weights = np.zeros(2), np.zeros(2)
    decays, sums, opened, expected = np.array([0.9, 0.99]), np.zeros(5), [], []
    for loss, g in zip(losses, gradients.astype(np.float64), strict=True):
        means = decays * means + (1 - decays) * loss
        weights = decays * weights + (1 - decays)
        fast, slow = means / weights
        opened.append(opened[-1:] == [True] or fast > 2 * slow + 0.1)
        sums += np.abs(g)
        expected.append(-0.1 * g / ((1e-5 + sums) if opened[-1] else 1))
    assert 150 <= opened.index(True) < 160
    solver, params = self_opening(), jnp.ones(5)
    step = jax.jit(lambda g, s, loss: solver.update(g, s, params, value=loss))
    opt_state = solver.init(params)
    for loss, g, is_open_now, update in zip(
        losses, gradients, opened, expected, strict=True
    ):
        updates, opt_state = step(g, opt_state, loss)
        np.testing.assert_allclose(updates, update, rtol=2e-6)
        assert is_open(opt_state) == is_open_now
    assert step._cache_size() == 1


def test_a_signal_of_ones_own():
    counts = classp_jax.gate_signal(
        init=lambda: jnp.zeros([], jnp.int32),
        update=lambda value, count: (count + 1 >= 3, count + 1),
    )
    actual, opt_state = steps(self_opening(counts), np.ones(5), value=True)
    announced = classp_jax.classp(0.1, apply_decay=lambda step: step >= 2)
    chex.assert_trees_all_close(actual, steps(announced, np.ones(5))[0], rtol=1e-6)
    assert opt_state.hyperparams_states["apply_decay"].signal_state == 5


@pytest.mark.parametrize(
    "flag",
    [
        lambda opens: opens,
        lambda opens: opens.astype(jnp.int32),
        lambda opens: 2 * opens.astype(jnp.uint8),
        lambda opens: opens.astype(jnp.float32),
        lambda opens: opens.astype(jnp.bfloat16),
        lambda opens: jnp.where(opens, 0.5, jnp.nan),
    ],
    ids=["bool", "int32", "uint8", "float32", "bfloat16", "nan"],
)
def test_what_a_signal_returns_may_be_any_scalar(flag):
    solver = self_opening(opens_where(lambda value: flag(value > 2)))
    params, openings = jnp.ones(3), []
    step = jax.jit(lambda s, value: solver.update(params, s, params, value=value))
    opt_state = start = solver.init(params)
    for loss in (1.0, 3.0, 1.0):
        updates, opt_state = step(opt_state, loss)
        openings.append((is_open(opt_state), bool(updates[0] != -np.float32(0.1))))
        chex.assert_trees_all_equal_shapes_and_dtypes(opt_state, start)
    # The sum after the first step is 1, at which CLASSP's step is SGD's, almost.
    assert openings == [(False, False), (True, True), (True, True)]
    assert step._cache_size() == 1
    assert steps(solver, [1.0, 3.0], value=True)[1].hyperparams["apply_decay"]


@pytest.mark.parametrize("opens", [False, True, 0, 1, np.True_, np.float64(0), 2.5])
def test_what_a_signal_returns_may_be_no_array(opens):
    solver = self_opening(opens_where(lambda value: opens))
    _, opt_state = steps(solver, np.ones(3), value=True)
    assert opt_state.hyperparams["apply_decay"].dtype == jnp.bool_
    assert is_open(opt_state) == bool(opens)


@pytest.mark.parametrize(
    "value",
    [
        3,
        True,
        3.0,
        np.float64(3),
        np.int16(3),
        jnp.float16(3),
        jnp.bfloat16(3),
        np.array(3),
        jnp.nan,
    ],
    ids=repr,
)
@pytest.mark.parametrize("x64", [False, True])
def test_the_loss_may_be_of_any_dtype(value, x64):
    seen = []
    follows = classp_jax.gate_signal(
        lambda: {"last": 0.0, "steps": 0},
        lambda value, state: (
            seen.append(value.dtype) or value > 2,
            {"last": value, "steps": state["steps"] + 1},
        ),
    )
    with helpers.enable_x64(x64):
        params = jnp.ones(3, jnp.float32)
        solver = self_opening(follows)
        step = jax.jit(lambda s, v: solver.update(params, s, params, value=v)[1])
        opt_state = start = solver.init(params)
        for _ in range(3):
            opt_state = step(opt_state, value)
            chex.assert_trees_all_equal_shapes_and_dtypes(opt_state, start)
        assert step._cache_size() == 1
    assert set(seen) == {jnp.dtype(jnp.float32)}
    assert is_open(opt_state) == bool(np.float32(value) > 2)


def test_a_signal_that_changes_its_state_is_named():
    def first_step(start, then):
        gate = classp_jax.gate_signal(lambda: start, lambda value, _: (True, then))
        solver, params = self_opening(gate), jnp.ones(2)
        solver.update(params, solver.init(params), params, value=1.0)

    with pytest.raises(TypeError, match="int32 became float32"):
        first_step(0, jnp.float32(1))
    with pytest.raises(TypeError, match="bfloat16 became float32"):
        first_step(jnp.bfloat16(0), jnp.float32(1))
    with pytest.raises(ValueError, match=r"shapes: \(\) became \(1,\)"):
        first_step(0.0, jnp.ones(1))
    first_step(0.0, 1)
    first_step(jax.random.key(0), jax.random.key(1))


def gate_around(*outer):
    """The gate around a chain of CLASSP and what stands before it."""
    return optax.inject_hyperparams(
        lambda apply_decay: optax.chain(
            *outer, classp_jax.classp(0.1, apply_decay=apply_decay)
        )
    )(apply_decay=classp_jax.loss_jump())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda solver: optax.chain(optax.clip_by_global_norm(1e3), solver),
        lambda solver: gate_around(optax.clip_by_global_norm(1e3)),
        lambda solver: optax.apply_if_finite(solver, 3),
        lambda solver: optax.masked(solver, True),
        lambda solver: optax.partition({"all": solver}, "all"),
        lambda solver: optax.MultiSteps(solver, 1).gradient_transformation(),
        lambda solver: optax.with_extra_args_support(solver),
    ],
    ids=["chain", "around", "apply_if_finite", "masked", "partition", "MultiSteps", ""],
)
def test_wrappers_hand_the_loss_on(wrap):
    losses = [*np.full(100, 0.2), *np.full(5, 9.0)]
    expected, _ = steps(self_opening(), losses, value=True)
    actual, opt_state = steps(wrap(self_opening()), losses, value=True)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)
    assert optax.tree.get(opt_state, "is_open")
    assert classp_jax.unassigned_share(opt_state) == 0


def test_of_several_batches_the_last_ones_loss_counts():
    solver = optax.MultiSteps(self_opening(), 2).gradient_transformation()
    losses = [*np.full(100, 0.2), 9.0, 0.2, 0.2, 9.0]
    openings = [
        bool(optax.tree.get(steps(solver, losses[:n], value=True)[1], "is_open"))
        for n in (102, 103, 104)
    ]
    assert openings == [False, False, True]


def test_other_hyperparameters_are_set_beside_it():
    solver, params = self_opening(), jnp.ones(2)
    step = jax.jit(lambda s, value: solver.update(params, s, params, value=value))
    _, opt_state = step(solver.init(params), 0.2)
    opt_state = classp_jax.set_hyperparameters(opt_state, learning_rate=0.3)
    updates, _ = step(opt_state, 0.2)
    chex.assert_trees_all_close(updates, -0.3 * params)
    assert step._cache_size() == 1
    with pytest.raises(ValueError, match="apply_decay is determined by a schedule"):
        classp_jax.set_hyperparameters(opt_state, apply_decay=1.0)


def test_seeds_side_by_side_open_each_in_its_own_time():
    solver = self_opening()
    params = jnp.ones((2, 3))
    opt_state = jax.vmap(solver.init)(params)
    update = jax.jit(jax.vmap(lambda g, s, loss: solver.update(g, s, g, value=loss)))
    for loss in [*np.full(100, 0.2), 9.0]:
        _, opt_state = update(params, opt_state, jnp.array([loss, 0.2]))
    assert opt_state.hyperparams["apply_decay"].tolist() == [True, False]
    assert update._cache_size() == 1


def test_sharded_parameters_compile_once():
    mesh = jax.make_mesh((8,), ("data",))
    params = jax.device_put(jnp.ones(8), NamedSharding(mesh, PartitionSpec("data")))
    solver = self_opening()
    step = jax.jit(lambda s: solver.update(params, s, params, value=1.0)[1])
    everywhere = NamedSharding(mesh, PartitionSpec())
    opt_state = jax.tree.map(
        lambda x: x if x.committed else jax.device_put(x, everywhere),
        solver.init(params),
    )
    step(step(opt_state))
    assert step._cache_size() == 1


def test_it_goes_on_from_a_checkpoint():
    solver, losses = self_opening(), [*np.full(100, 0.2), *np.full(5, 9.0)]
    _, opt_state = steps(solver, losses, value=True)
    saved = serialization.to_bytes(opt_state)
    restored = serialization.from_bytes(solver.init(jnp.ones(2)), saved)
    chex.assert_trees_all_equal(restored, opt_state)
    assert is_open(restored)


def test_nnx_optimizer_hands_the_loss_on():
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    solver = self_opening(opens_where(lambda value: value > 2))
    optimizer = nnx.Optimizer(model, solver, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, value):
        grads = nnx.grad(lambda model: jnp.sum(model(jnp.ones(3))))(model)
        optimizer.update(model, grads, value=value)

    for loss, expected in ((0.2, False), (9.0, True), (0.2, True)):
        step(model, optimizer, loss)
        assert bool(optimizer.opt_state.hyperparams["apply_decay"][...]) == expected


def test_a_linen_train_state_goes_on_with_the_loss_in_three_lines():
    params = {"w": jnp.array([1.0, -2.0])}
    state = TrainState.create(apply_fn=None, params=params, tx=self_opening())
    grads = {"w": jnp.array([0.5, 0.1])}
    with pytest.raises(TypeError, match="pass value to update"):
        state.apply_gradients(grads=grads)

    @jax.jit
    def step(state, loss):
        updates, opt_state = state.tx.update(
            grads, state.opt_state, state.params, value=loss
        )
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state)

    losses = [*np.full(100, 0.2), *np.full(5, 9.0)]
    for loss in losses:
        state = step(state, loss)
    of_steps, _ = steps(self_opening(), losses, value=True)
    chex.assert_trees_all_close(
        state.params["w"], params["w"] + of_steps.sum(axis=0), rtol=1e-6
    )
    assert state.step == 105
    assert is_open(state.opt_state)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(ratio=0.9), ValueError, "ratio must be at least 1, got 0.9"),
        (dict(ratio=float("nan")), ValueError, "ratio"),
        (dict(ratio=jnp.float32(2)), TypeError, "ratio"),
        (dict(margin=-1), ValueError, "margin must be at least 0"),
        (dict(margin=None), TypeError, "margin"),
        (dict(fast=0.99), ValueError, "0 <= fast < slow < 1"),
        (dict(slow=1.0), ValueError, "0 <= fast < slow < 1"),
        (dict(fast=-0.1), ValueError, "0 <= fast < slow < 1"),
        (dict(slow="0.9"), TypeError, "slow"),
        (dict(fast=True), TypeError, "fast"),
    ],
)
def test_what_is_wrong_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        classp_jax.loss_jump(**arguments)


def test_wrong_parts_are_named():
    with pytest.raises(TypeError, match="init must be a function"):
        classp_jax.gate_signal(0, lambda value, state: (True, state))
    with pytest.raises(TypeError, match="update must be a function"):
        classp_jax.gate_signal(lambda: 0, True)
    params, solver = jnp.ones(2), self_opening()
    opt_state = solver.init(params)
    for update in (solver.update, jax.jit(solver.update)):
        for names in ({}, {"value": None}):
            with pytest.raises(TypeError, match="pass value to update"):
                update(params, opt_state, params, **names)
        for value in (params, jnp.ones(1)):
            with pytest.raises(ValueError, match="value must be a scalar, got shape"):
                update(params, opt_state, params, value=value)
    not_injected = classp_jax.classp(0.1, apply_decay=classp_jax.loss_jump())
    with pytest.raises(TypeError, match="it must be injected: optax.inject_hyper"):
        not_injected.update(params, not_injected.init(params), value=1.0)
    solver = self_opening(opens_where(lambda value: jnp.array([True])))
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \(1,\)"):
        solver.update(params, solver.init(params), params, value=1.0)
