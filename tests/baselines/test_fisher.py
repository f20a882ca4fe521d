"""The Fisher information against closed forms, loops and devices."""

import functools
import gc
import re
import weakref

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from classp_jax import baselines
from classp_jax.baselines import _example_gradients
from tests import helpers

RNG = np.random.default_rng(3)
INPUTS = np.float32(RNG.normal(size=(11, 3)))
LABELS = RNG.integers(0, 4, 11)
SOFTMAX = {
    "kernel": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32),
    "bias": jnp.asarray(RNG.normal(size=4), jnp.float32),
}


def cross_entropy(params, x, label):
    logits = x @ params["kernel"] + params["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 11, 32])
def test_fisher_of_softmax_regression_is_the_closed_form_and_a_loops(batch_size):
    actual = baselines.fisher_diagonal(
        cross_entropy, SOFTMAX, INPUTS, LABELS, batch_size=batch_size
    )
    residual = jax.nn.softmax(INPUTS @ SOFTMAX["kernel"] + SOFTMAX["bias"])
    residual -= jax.nn.one_hot(LABELS, 4)
    closed_form = {
        "kernel": jnp.mean((INPUTS[:, :, None] * residual[:, None]) ** 2, axis=0),
        "bias": jnp.mean(residual**2, axis=0),
    }
    chex.assert_trees_all_close(actual, closed_form, rtol=1e-5)

    squares = [
        jax.tree.map(jnp.square, jax.grad(cross_entropy)(SOFTMAX, x, label))
        for x, label in zip(INPUTS, LABELS, strict=True)
    ]
    loop = jax.tree.map(lambda *s: sum(s) / len(s), *squares)
    chex.assert_trees_all_close(actual, loop, rtol=1e-5)


def test_fisher_of_linear_regression_approaches_the_moments_of_the_inputs():
    """With noise of variance 1 it is the mean square of each input."""
    rng = np.random.default_rng(4)
    scales, params = np.array([0.5, 1.0, 3.0]), jnp.array([1.0, -2.0, 0.5])
    inputs = rng.normal(size=(20_000, 3)) * scales
    targets = inputs @ np.asarray(params) + rng.normal(size=20_000)

    def negative_log_likelihood(params, x, y):
        return 0.5 * (x @ params - y) ** 2

    fisher = baselines.fisher_diagonal(
        negative_log_likelihood, params, inputs, targets, batch_size=999
    )
    chex.assert_trees_all_close(np.asarray(fisher), np.float32(scales**2), rtol=0.1)


def test_fisher_takes_pytrees_and_in_a_program_is_compiled_once():
    traces = []

    def loss(params, example):
        traces.append(None)
        return cross_entropy(params, example["x"], example["label"])

    examples = {"x": INPUTS, "label": LABELS}
    expected = baselines.fisher_diagonal(cross_entropy, SOFTMAX, INPUTS, LABELS)
    actual = baselines.fisher_diagonal(loss, SOFTMAX, examples)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)
    program = jax.jit(functools.partial(baselines.fisher_diagonal, loss))
    chex.assert_trees_all_close(program(SOFTMAX, examples), expected, rtol=1e-6)
    before = len(traces)
    program(jax.tree.map(jnp.zeros_like, SOFTMAX), examples)
    assert len(traces) == before


class Learner(eqx.Module):
    """Can be called, and can't be hashed."""

    mask: jax.Array

    def __call__(self, params, x):
        return self.mask @ (params * x)


def test_fisher_is_of_the_loss_as_it_is_at_each_call():
    mask, x = jnp.array([1.0, 0.0]), jnp.ones((4, 2))

    def loss(params, x):  # Reads the task's mask from outside.
        return mask @ (params * x)

    for mask in (jnp.array([1.0, 0.0]), jnp.array([0.0, 3.0])):
        for loss_fn in (loss, Learner(mask)):
            fisher = baselines.fisher_diagonal(loss_fn, jnp.ones(2), x)
            chex.assert_trees_all_equal(fisher, mask**2)


def test_nothing_that_a_loss_reads_is_kept_after_the_call():
    def of_a_task():
        learner = Learner(jnp.ones(2))
        arrays, functions = weakref.ref(learner.mask), weakref.ref(learner)

        def loss(params, x):
            return learner(params, x)

        baselines.fisher_diagonal(loss, jnp.ones(2), jnp.ones((4, 2)))
        return arrays, functions, weakref.ref(loss)

    kept = [ref for _ in range(2) for ref in of_a_task()]
    gc.collect()
    assert [ref() for ref in kept] == [None] * 6


CUT = np.float32(RNG.normal(size=(48, 8)))


def tanh_loss(params, example, key):
    noise = jax.random.normal(key, (4,))
    return 0.5 * jnp.sum((jnp.tanh(example @ params["w"]) - noise) ** 2)


def make_mesh(axes, explicit=False):
    """Eight devices; by default what is on them is for the compiler to place."""
    if not hasattr(jax.sharding, "auto_axes"):
        return jax.make_mesh(tuple(axes.values()), tuple(axes))
    types = jax.sharding.AxisType
    axis_type = types.Explicit if explicit else types.Auto
    return jax.make_mesh(tuple(axes.values()), tuple(axes), (axis_type,) * len(axes))


@pytest.mark.parametrize(
    ("of_params", "of_examples", "batch_size"),
    [
        ((), ("x",), 8),
        ((), (("x", "m"),), 5),
        (("x", "m"), ("x",), 5),
        (("m",), ("x", "m"), 48),
        ((None, "m"), (), 7),
    ],
)
@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_fisher_of_what_is_cut_is_that_of_the_whole(
    jit, explicit, of_params, of_examples, batch_size
):
    if explicit and not hasattr(jax.sharding, "auto_axes"):
        pytest.skip("This JAX has no explicit axes.")
    params = {"w": np.float32(np.linspace(-1, 1, 32).reshape(8, 4))}
    keys = jax.random.split(jax.random.key(0), 48)
    fisher = jit(
        functools.partial(baselines.fisher_diagonal, tanh_loss, batch_size=batch_size)
    )
    expected = fisher(params, CUT, keys)
    mesh = make_mesh({"x": 4, "m": 2}, explicit)

    def put(x, *spec):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    placed = {"w": put(params["w"], *of_params)}
    actual = fisher(placed, put(CUT, *of_examples), put(keys, *of_examples[:1]))
    chex.assert_trees_all_close(jax.device_get(actual), expected, rtol=2e-5)
    if explicit or jit is not jax.jit:  # What is traced doesn't say it otherwise.
        assert actual["w"].sharding.is_equivalent_to(placed["w"].sharding, 2)


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="newer than the lowest JAX")
@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_inside_shard_map_fisher_is_that_of_each_devices_examples(
    given, check_vma, batch_size
):
    params = {"w": jnp.linspace(-1, 1, 32).reshape(8, 4)}
    keys = jax.random.split(jax.random.key(0), 48)
    everywhere, cut = PartitionSpec(), PartitionSpec("x")

    def mean(params, *examples):
        fisher = baselines.fisher_diagonal(
            tanh_loss, params, *examples, batch_size=batch_size
        )
        return jax.lax.pmean(fisher, "x")

    actual = jax.shard_map(
        mean if given else lambda _, *examples: mean(params, *examples),
        mesh=make_mesh({"x": 8}),
        in_specs=(everywhere, cut, cut),
        out_specs=everywhere,
        check_vma=check_vma,
    )(params, CUT, keys)
    expected = baselines.fisher_diagonal(tanh_loss, params, CUT, keys)
    chex.assert_trees_all_close(jax.device_get(actual), expected, rtol=2e-5)


@pytest.mark.parametrize("batch_size", [32, 20, 3])
def test_each_device_has_its_own_examples_and_all_send_once(batch_size):
    def program(shards, *trees):
        def mean(params, examples):
            return _example_gradients._mean_term(
                jnp.square, tanh_loss, batch_size, shards, params, examples
            )

        return jax.jit(mean).lower(*trees).compile()

    params = {"w": jnp.ones((128, 4))}
    examples = (jnp.ones((512, 128)), jax.random.split(jax.random.key(0), 512))
    mesh = make_mesh({"x": 8})
    everywhere, cut = (NamedSharding(mesh, PartitionSpec(*x)) for x in ((), ("x",)))
    on_all = jax.device_put(params, everywhere), jax.device_put(examples, cut)
    assert _example_gradients._parts(on_all[1]) == 8
    parallel = program(8, *on_all)
    sent = re.findall(
        r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
        r"(?:-start)?\(",
        parallel.as_text(),
    )
    assert sent == ["all-reduce"]
    assert "all-reduce" in parallel.as_text().split("ENTRY")[1]  # Not in the loop.
    # Of 3 examples at once all devices have one.
    share = 1 / min(8, batch_size) if batch_size > 8 else 1
    alone = program(1, params, examples)
    flops = [x.cost_analysis()["flops"] for x in (parallel, alone)]
    assert flops[0] < 1.2 * share * flops[1]


def test_fisher_holds_one_batch_of_gradients_at_once():
    examples = jnp.ones((64, 3)), jnp.zeros(64, jnp.int32)

    def largest(batch_size):
        jaxpr = jax.make_jaxpr(
            lambda params: baselines.fisher_diagonal(
                cross_entropy, params, *examples, batch_size=batch_size
            )
        )(SOFTMAX)
        return (f"f32[{batch_size},3,4]" in str(jaxpr), "f32[64,3,4]" in str(jaxpr))

    assert largest(8) == (True, False)
    assert largest(64) == (True, True)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_fisher_accumulates_in_at_least_float32(dtype):
    with helpers.enable_x64(dtype == jnp.float64):
        fisher = baselines.fisher_diagonal(
            lambda w, x: w * x, jnp.ones((), dtype), jnp.ones(1000, dtype), batch_size=1
        )
        assert fisher.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
        assert fisher == 1  # A bfloat16 sum would stop at 256.


@pytest.mark.parametrize(
    ("examples", "batch_size", "message"),
    [
        ((INPUTS, LABELS[:-1]), 32, r"leading axis.*\(10,\), \(11, 3\)"),
        ((INPUTS, 1), 32, "leading axis"),
        ((), 32, "leading axis"),
        ((INPUTS[:0], LABELS[:0]), 32, "at least one example"),
        ((INPUTS, LABELS), 0, "batch_size must be at least 1, got 0"),
        ((INPUTS, LABELS), -3, "batch_size must be at least 1, got -3"),
    ],
)
def test_wrong_examples_are_named(examples, batch_size, message):
    with pytest.raises(ValueError, match=message):
        baselines.fisher_diagonal(
            cross_entropy, SOFTMAX, *examples, batch_size=batch_size
        )


@pytest.mark.parametrize(
    ("loss_fn", "params", "error"),
    [
        (None, jnp.ones(2), TypeError),
        (lambda w, x: w * x, jnp.ones(2), TypeError),  # No scalar.
        (lambda w, x: jnp.sum(w * x), jnp.arange(2), TypeError),  # Integers.
        (lambda w, x: w["a"] @ x, {"a": jnp.ones(2), "n": 1}, TypeError),
        (lambda w, x: jnp.sum(abs(w * x)), jnp.ones(2, jnp.complex64), ValueError),
    ],
    ids=["no function", "no scalar", "no floats", "an integer", "complex"],
)
def test_what_has_no_fisher_is_refused(loss_fn, params, error):
    with pytest.raises(error):
        baselines.fisher_diagonal(loss_fn, params, jnp.ones((3, 2)))


def test_fisher_and_penalty_keep_the_first_task():
    """The whole way: task A, its Fisher, task B with and without the penalty."""

    def mean_loss(params, inputs, labels):
        return jnp.mean(jax.vmap(cross_entropy, (None, 0, 0))(params, inputs, labels))

    def learn(optimizer, params, *task):
        @jax.jit
        def run(params):
            def step(_, carry):
                params, opt_state = carry
                grads = jax.grad(mean_loss)(params, *task)
                updates, opt_state = optimizer.update(grads, opt_state, params)
                return optax.apply_updates(params, updates), opt_state

            carry = params, optimizer.init(params)
            return jax.lax.fori_loop(0, 300, step, carry)[0]

        return run(params)

    task_a, task_b = (INPUTS, LABELS), (INPUTS[::-1], LABELS)
    sgd = optax.sgd(0.5)
    anchor = learn(sgd, SOFTMAX, *task_a)
    fisher = baselines.fisher_diagonal(cross_entropy, anchor, *task_a)
    losses = [
        mean_loss(
            learn(
                optax.chain(baselines.ewc_penalty(fisher, anchor, strength, 0.5), sgd),
                anchor,
                *task_b,
            ),
            *task_a,
        )
        for strength in (0.0, 1.0, 100.0, 1e6)
    ]
    assert losses == sorted(losses, reverse=True)
    chex.assert_trees_all_close(losses[-1], mean_loss(anchor, *task_a), rtol=1e-3)
