"""Gates that open by themselves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import classp_jax


def opened_at(losses, signal=None):
    """At which of some losses the signal is given."""
    signal = signal or classp_jax.loss_jump()

    @jax.jit
    def run(losses):
        def step(state, loss):
            opens, state = signal.update(loss, state)
            return state, opens

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
        opens, state = signal.update(jnp.float32(loss), state)
        assert not opens
    assert state.fast == state.slow == 0.5
    bad = np.insert(losses, [0, 100, 299], np.nan)
    assert opened_at(bad) == opened_at(losses) == []


def test_a_loss_below_zero_jumps_by_its_size():
    assert opened_at(falling(300) - 5) == opened_at(np.full(300, -5.0)) == []
    # The slow mean is -5: by its size, and the margin, above it.
    signal = classp_jax.loss_jump(fast=0.0)
    assert opened_at([*np.full(300, -5.0), 0.0], signal) == []
    assert opened_at([*np.full(300, -5.0), 0.2], signal) == [300]


def classp_of(gate):
    return classp_jax.classp(0.1, apply_decay=gate)


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
    solver = classp_jax.open_on_signal(classp_of, classp_jax.loss_jump())
    actual, opt_state = steps(solver, losses, value=True)
    (first, *_) = opened_at(losses)
    # Announced, at the same step.
    announced = classp_jax.classp(0.1, apply_decay=lambda step: step >= first)
    expected, _ = steps(announced, losses)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)
    assert opt_state.is_open  # Also after the loss has long been small again.
    closed, opt_state = steps(solver, np.full(100, 0.2), value=True)
    expected, _ = steps(classp_jax.classp(0.1, apply_decay=False), np.full(100, 0.2))
    chex.assert_trees_all_equal(closed, expected)
    assert not opt_state.is_open


def test_a_signal_of_ones_own():
    counts = classp_jax.GateSignal(
        init=lambda: jnp.zeros([], jnp.int32),
        update=lambda value, count: (count + 1 >= 3, count + 1),
    )
    solver = classp_jax.open_on_signal(classp_of, counts)
    actual, opt_state = steps(solver, np.ones(5), value=True)
    announced = classp_jax.classp(0.1, apply_decay=lambda step: step >= 2)
    chex.assert_trees_all_close(actual, steps(announced, np.ones(5))[0], rtol=1e-6)
    assert opt_state.signal == 5


def test_it_is_found_chained_and_reads_the_same_diagnostics():
    chained = optax.chain(
        optax.clip_by_global_norm(1.0),
        classp_jax.open_on_signal(classp_of, classp_jax.loss_jump()),
    )
    params = {"w": jnp.ones(2)}
    _, opt_state = chained.update(params, chained.init(params), params, value=1.0)
    assert classp_jax.unassigned_share(opt_state) == 0
    assert not optax.tree.get(opt_state, "is_open")


def test_seeds_side_by_side_open_each_in_its_own_time():
    solver = classp_jax.open_on_signal(classp_of, classp_jax.loss_jump())
    params = jnp.ones((2, 3))
    opt_state = jax.vmap(solver.init)(params)
    update = jax.jit(jax.vmap(lambda g, s, loss: solver.update(g, s, g, value=loss)))
    for loss in [*np.full(100, 0.2), 9.0]:
        _, opt_state = update(params, opt_state, jnp.array([loss, 0.2]))
    assert opt_state.is_open.tolist() == [True, False]
    assert update._cache_size() == 1


def test_sharded_parameters_compile_once():
    mesh = jax.make_mesh((8,), ("data",))
    params = jax.device_put(jnp.ones(8), NamedSharding(mesh, PartitionSpec("data")))
    solver = classp_jax.open_on_signal(classp_of, classp_jax.loss_jump())
    step = jax.jit(lambda s: solver.update(params, s, params, value=1.0)[1])
    step(step(solver.init(params)))
    assert step._cache_size() == 1


def test_injected_hyperparameters_go_beside_the_gate():
    solver = classp_jax.open_on_signal(
        lambda gate: optax.inject_hyperparams(
            lambda learning_rate: classp_jax.classp(learning_rate, apply_decay=gate)
        )(learning_rate=0.1),
        classp_jax.loss_jump(),
    )
    losses = [*np.full(100, 0.2), *np.full(5, 9.0)]
    actual, _ = steps(solver, losses, value=True)
    static = classp_jax.open_on_signal(classp_of, classp_jax.loss_jump())
    expected, opt_state = steps(static, losses, value=True)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)
    assert opt_state.is_open


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
    signal, params = classp_jax.loss_jump(), jnp.ones(2)
    with pytest.raises(TypeError, match="inner_factory must be a function of the"):
        classp_jax.open_on_signal(classp_jax.classp(0.1), signal)
    with pytest.raises(TypeError, match="signal must be a GateSignal"):
        classp_jax.open_on_signal(classp_of, lambda step: True)
    with pytest.raises(TypeError, match="inner_factory's result"):
        classp_jax.open_on_signal(lambda gate: None, signal).init(params)
    solver = classp_jax.open_on_signal(classp_of, signal)
    with pytest.raises(TypeError, match="pass value to update"):
        solver.update(params, solver.init(params), params)
    with pytest.raises(ValueError, match=r"value must be a scalar, got shape \(2,\)"):
        solver.update(params, solver.init(params), params, value=params)
