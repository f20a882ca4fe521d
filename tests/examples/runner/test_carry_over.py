"""What an optimizer collected goes on in the next phase, or is refused; never zeros."""

import functools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from classp_jax import (
    ScaleByAccumulatedPowerNormState,
    classp,
    classp_equation1,
    classp_released,
)
from classp_jax.baselines import ewc_penalty, synaptic_intelligence
from examples.datasets.stream import Stream, benchmarks
from examples.methods.classp import collecting_all
from examples.methods.ewc import EWC
from examples.methods.stored_sums import classp_stored
from examples.runner.carry_over import carry_over, collected_sums, kind_of_sum, replaced
from examples.runner.data import Experiment, Split, Task
from examples.runner.plan import Method, Phase
from examples.runner.run import Runner
from examples.runner.trainer import TrainState
from examples.sentiment.study import STUDY as SENTIMENT
from examples.streams.study import study
from examples.vision.study import STUDY as VISION
from tests.helpers import Network

# As a name of a parameter "grad_sum" must not be taken for a sum.
PARAMS = {"w": jnp.ones((4, 6)), "grad_sum": jnp.ones(3), "deep": jnp.ones((3, 4, 5))}


def gradients(scale=1.0):
    keys = dict(zip(PARAMS, jax.random.split(jax.random.key(0), 3), strict=True))
    return {k: scale * jax.random.normal(keys[k], p.shape) for k, p in PARAMS.items()}


def trained(optimizer, grads, steps=3):
    state = optimizer.init(PARAMS)
    for _ in range(steps):
        _, state = optimizer.update(grads, state, PARAMS)
    return TrainState(PARAMS, state, jax.random.key(0), jnp.int32(steps))


def carried(before, after, grads=None, steps=3):
    """The optimizer's state that the second begins with, and what the first ended with.

    In compiled code it must be the same, as before training it is only traced.
    """
    grads = gradients() if grads is None else grads
    so_far = trained(before, grads, steps)
    fresh = trained(after, grads, 0)
    result = carry_over(so_far, fresh)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        result.opt_state, jax.eval_shape(carry_over, so_far, fresh).opt_state
    )
    assert int(result.step) == steps
    return result.opt_state, so_far.opt_state


def only_sum(opt_state):
    (state,) = collected_sums(opt_state)
    return state


def with_penalty(optimizer):
    return optax.chain(ewc_penalty(PARAMS, PARAMS, 1.0, 0.1), optimizer)


SCHEDULE = optax.linear_schedule(0.1, 0.0, 10)
SAME_FORM = {
    "rate": (classp(0.1), classp(0.2)),
    "schedule": (classp(0.1), classp(SCHEDULE)),
    "equation1": (classp(0.1), classp_equation1(0.1)),
    "released": (classp(0.1), classp_released(0.1)),
    "penalty": (classp(0.1), with_penalty(classp(0.1))),
    "penalty gone": (with_penalty(classp(0.1)), classp(0.1)),
    "si": (classp(0.1), synaptic_intelligence(classp(0.1), 1.0)),
    "clipped": (classp(0.1), optax.chain(optax.clip(1.0), classp(0.1))),
    "factored": (classp(0.1, factored=True), classp(SCHEDULE, factored=True)),
    "factored, penalty": (
        classp(0.1, factored=True),
        with_penalty(classp(0.1, factored=True)),
    ),
    "bfloat16": (
        classp(0.1, accumulator_dtype=jnp.bfloat16),
        classp(SCHEDULE, accumulator_dtype=jnp.bfloat16),
    ),
}


@pytest.mark.parametrize(("before", "after"), SAME_FORM.values(), ids=SAME_FORM)
def test_a_sum_of_the_same_form_goes_on_to_the_bit(before, after):
    state, so_far = map(only_sum, carried(before, after))
    chex.assert_trees_all_equal(state.grad_sum, so_far.grad_sum)
    assert all(np.all(s > 0) for s in jax.tree.leaves(state.grad_sum))


@pytest.mark.parametrize("after", [classp(0.2), classp(SCHEDULE)])
@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_a_sum_goes_on_in_a_wider_dtype(narrow, after):
    before = classp(0.1, accumulator_dtype=narrow)
    state, so_far = map(only_sum, carried(before, after))
    assert {s.dtype for s in jax.tree.leaves(state.grad_sum)} == {jnp.dtype("float32")}
    chex.assert_trees_all_equal(
        state.grad_sum, jax.tree.map(lambda s: s.astype("float32"), so_far.grad_sum)
    )


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, with_penalty])
def test_a_full_sum_goes_on_as_those_of_rows_and_columns(wrap):
    opt_state, before = carried(classp(0.1), wrap(classp(0.1, factored=True)))
    state, full_sums = only_sum(opt_state), only_sum(before).grad_sum
    for name, axes in {"w": (0,), "deep": (0, 1)}.items():
        full = np.asarray(full_sums[name], np.float64)
        rows, columns = state.grad_sum[name]
        np.testing.assert_allclose(rows, full.sum(-1), rtol=1e-6)
        np.testing.assert_allclose(columns, full.sum(axes), rtol=1e-6)
    chex.assert_trees_all_equal(state.grad_sum["grad_sum"], full_sums["grad_sum"])
    # As if it had been collected so: the steps that follow are those.
    always = trained(classp(0.1, factored=True), gradients())
    expected, _ = classp(0.1, factored=True).update(gradients(), always.opt_state)
    factored = classp(0.1, factored=True)
    fresh = factored.init(PARAMS)
    goes_on = replaced(fresh, type(state), lambda _: state)
    actual, _ = factored.update(gradients(), goes_on)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5)


def test_rows_that_do_not_fit_their_dtype_are_its_largest_value():
    of_float16 = functools.partial(classp, 0.1, accumulator_dtype="float16")
    grads = jax.tree.map(lambda p: jnp.full(p.shape, 2.0**14), PARAMS)
    opt_state, _ = carried(of_float16(), of_float16(factored=True), grads)
    state = only_sum(opt_state)
    for part in state.grad_sum["w"]:
        np.testing.assert_array_equal(part, jnp.finfo("float16").max)
    chex.assert_tree_all_finite(state)


def test_rows_of_a_narrow_sum_are_those_of_a_wider_dtype_that_holds_them():
    grads = jax.tree.map(lambda p: jnp.full(p.shape, 2.0**14), PARAMS)
    before = classp(0.1, accumulator_dtype="float16")
    opt_state, _ = carried(before, classp(0.1, factored=True), grads)
    state = only_sum(opt_state)
    rows, columns = state.grad_sum["w"]
    np.testing.assert_array_equal(rows, 6 * 3 * 2.0**14)
    np.testing.assert_array_equal(columns, 4 * 3 * 2.0**14)


def masked(optimizer):
    return optax.masked(optimizer, {"w": True, "grad_sum": False, "deep": False})


def two(optimizer):
    labels = {"w": "a", "grad_sum": "b", "deep": "b"}
    return optax.partition({"a": optimizer, "b": optimizer}, labels)


REFUSED = {
    "factored to full": (
        classp(0.1, factored=True),
        classp(0.1),
        "of rows and columns .factored=True., and can't go on .* of each weight",
    ),
    "narrower": (
        classp(0.1),
        classp(0.1, accumulator_dtype="bfloat16"),
        r"deep float32\[3, 4, 5\], and can't .* bfloat16\[3, 4, 5\].*accumulator_dtype",
    ),
    "narrower, schedule": (
        classp(0.1),
        classp(SCHEDULE, accumulator_dtype="float16"),
        "float32.* float16",
    ),
    "other 16 bits": (
        classp(0.1, accumulator_dtype="float16"),
        classp(0.1, accumulator_dtype="bfloat16"),
        "float16.* bfloat16",
    ),
    "full to factored and narrower": (
        classp(0.1),
        classp(0.1, factored=True, accumulator_dtype="bfloat16"),
        "float32.* bfloat16",
    ),
    "to stored": (
        classp(0.1),
        classp_stored(0.1, "linear"),
        "ScaleByAccumulatedPowerNormState.* StoredSumState.* storage",
    ),
    "from stored": (
        classp_stored(0.1, "bfloat16"),
        classp(0.1),
        "StoredSumState.* ScaleByAccumulatedPowerNormState",
    ),
    "otherwise stored": (
        classp_stored(0.1, "tensor"),
        classp_stored(0.1, "bfloat16"),
        r"float32\[\].* bfloat16\[",
    ),
    "stored in blocks": (
        classp_stored(0.1, "tensor"),
        classp_stored(0.1, "linear"),
        "StoredSumState",
    ),
    "of fewer tensors": (classp(0.1), masked(classp(0.1)), "of deep, grad_sum, w, and"),
    "two to one": (two(classp(0.1)), classp(0.1), "keeps 2 sums and this one 1"),
    "one to two": (classp(0.1), two(classp(0.1)), "keeps 1 sums and this one 2"),
    "narrower moments": (
        optax.adam(0.1),
        optax.adam(0.1, mu_dtype="bfloat16"),
        "mu.deep float32.* bfloat16",
    ),
}


@pytest.mark.parametrize(("before", "after", "message"), REFUSED.values(), ids=REFUSED)
def test_a_sum_of_another_form_is_refused(before, after, message):
    with pytest.raises(ValueError, match=message):
        carried(before, after)


def test_two_sums_go_on_in_the_same_optimizer():
    state, so_far = carried(two(classp(0.1)), two(classp(0.2)))
    chex.assert_trees_all_equal(state, so_far)


def test_moments_go_on_in_a_wider_dtype():
    state, _ = carried(optax.adam(0.1, mu_dtype="bfloat16"), optax.adam(0.1))
    assert {m.dtype for m in jax.tree.leaves(state[0].mu)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "after", [optax.contrib.prodigy(), optax.adagrad(0.1), optax.sgd(0.1)]
)
def test_another_optimizers_state_is_its_own(after):
    """Prodigy has a ``grad_sum`` too, which is none of CLASSP's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state, _ = carried(classp(0.1), after)
    chex.assert_trees_all_equal(state, after.init(PARAMS))


@pytest.mark.parametrize("before", [optax.sgd(0.1), optax.contrib.prodigy()])
def test_a_sum_that_begins_at_0_says_so(before):
    with pytest.warns(UserWarning, match="collected none: it begins at 0"):
        state, _ = carried(before, classp(0.1))
    chex.assert_trees_all_equal(state, classp(0.1).init(PARAMS))


RNG = np.random.default_rng(0)
DATA = Split(
    RNG.normal(size=(20, 6)).astype(np.float32), RNG.integers(0, 3, 20).astype(np.int32)
)


def method(*phases, last=None):
    made = [
        Phase({task: 1}, optimizer, dict(learning_rate=0.1) | kwargs)
        for task, (optimizer, kwargs) in zip("abc", phases, strict=False)
    ]
    if last:
        made.append(Phase({"b": 1}, "sgd", dict(learning_rate=0.1), (last,)))
    return Method("m", tuple(made))


CLASSP, SGD = ("classp", {}), ("sgd", {})
SQUARES = ("classp", dict(power=2))
STEPS = EWC(1.0, "steps")
REFUSED_METHODS = {
    "power": (method(CLASSP, SQUARES), r"phase 2: .* \|g\|\^1, which .* \|g\|\^2"),
    "power back": (method(SQUARES, (collecting_all, dict(threshold=0.0))), r"\^1;"),
    "released": (method(SQUARES, ("classp_released", dict(power=2))), r"\|g\|\^1;"),
    "stored": (
        method(
            (classp_stored, dict(storage="linear")),
            (classp_stored, dict(storage="square")),
        ),
        "stored as linear, which .* stored as square",
    ),
    "lost": (method(CLASSP, SGD, CLASSP), "phase 3: the sum that an earlier phase"),
    "factored": (method(("classp", dict(factored=True)), CLASSP), "phase 2: what the"),
    "steps of |g|": (method(CLASSP, last=STEPS), "its optimizer, classp, collects"),
    "steps of released": (
        method(("classp_released", dict(power=2)), last=STEPS),
        "its optimizer, classp_released, collects none",
    ),
    "steps factored": (
        method(("classp", dict(power=2, factored=True)), last=STEPS),
        "power=2 and factored=False",
    ),
}


@pytest.fixture
def runner(tmp_path):
    tasks = dict.fromkeys("abc", Task(DATA, DATA))
    return Runner(Experiment("", Network, lambda x: x, tasks, 10), tmp_path)


@pytest.mark.parametrize(
    ("refused", "message"), REFUSED_METHODS.values(), ids=REFUSED_METHODS
)
def test_a_method_is_refused_before_it_is_trained(refused, message, runner, tmp_path):
    with pytest.raises(ValueError, match=message):
        runner.run("m", refused, [0])
    assert not list(tmp_path.iterdir())


def test_no_method_of_the_studies_changes_its_kind_of_sum():
    streams = [study(Stream(name, "domain", 2), 1, 8) for name in benchmarks()]
    pairs = {}
    for of in (VISION, SENTIMENT, *streams):
        for name, method in of.methods.items():
            for before, after in zip(method.phases, method.phases[1:], strict=False):
                kinds = [kind_of_sum(p) for p in (before, after)]
                keeps = [
                    "classp" in p.optimizer_name or "collecting" in p.optimizer_name
                    for p in (before, after)
                ]
                pairs[name] = not all(keeps) or kinds[0] == kinds[1]
    assert len(pairs) > 300
    assert all(pairs.values())


def test_a_full_sum_is_factored_along_a_run(runner):
    """The second phase has the sum of the first, and adds its own to it."""
    first = Phase({"a": 1}, "classp", dict(learning_rate=0.1, apply_decay=False))
    hyperparameters = dict(learning_rate=0.1, factored=True, threshold=1e30)
    second = Phase({"b": 1}, "classp", hyperparameters)
    (before,) = runner.train((first,), [0])
    (after,) = runner.train((first, second), [0])
    full = only_sum(before.state.opt_state).grad_sum.out.kernel[...]
    kept = only_sum(after.state.opt_state)
    assert isinstance(kept, ScaleByAccumulatedPowerNormState)
    rows, columns = kept.grad_sum.out.kernel
    np.testing.assert_allclose(rows[...], full.sum(1), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(columns[...], full.sum(0), rtol=1e-6, atol=1e-7)
