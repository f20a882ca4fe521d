"""A pass over data that moves no weight, and the report of what is protected."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import classp_jax
from classp_jax import classp, collect, interop, tensor_report

RNG = np.random.default_rng(0)
PARAMS = {
    "kernel": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32),
    "bias": jnp.zeros(3),
}
BATCHES = [
    {"inputs": np.float32(RNG.normal(size=(8, 4))), "labels": RNG.integers(0, 3, 8)}
    for _ in range(5)
]


def loss_fn(params, batch):
    logits = batch["inputs"] @ params["kernel"] + params["bias"]
    labels = batch["labels"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def sampled_loss_fn(params, batch):
    logits = batch["inputs"] @ params["kernel"] + params["bias"]
    labels = jax.random.categorical(jax.random.key(batch["seed"]), logits)
    return loss_fn(params, {**batch, "labels": labels})


OPTIMIZERS = {
    "full": classp(0.1),
    "factored": classp(0.1, factored=True),
    "equation1": classp_jax.classp_equation1(0.1, 0.01, power=2.0),
    "directions": classp_jax.classp_gram(0.1, rank=None),
    "sketch": classp_jax.classp_gram(0.1, rank=2),
    "wrapped": optax.chain(
        optax.clip_by_global_norm(0.1), optax.MultiSteps(classp(0.1), 2)
    ),
    "injected": optax.inject_hyperparams(classp, static_args="power")(
        0.1, apply_decay=classp_jax.loss_jump()
    ),
    "momentum": optax.chain(classp(0.1), optax.trace(0.9)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_state_of_a_loop_by_hand_at_the_same_weights(name):
    optimizer = optax.with_extra_args_support(OPTIMIZERS[name])
    before = optimizer.init(PARAMS)
    kept = jax.tree.map(jnp.copy, (before, PARAMS))
    actual = collect(OPTIMIZERS[name], loss_fn, before, PARAMS, iter(BATCHES))
    chex.assert_trees_all_equal((before, PARAMS), kept)  # Nothing is given away.

    update = jax.jit(optimizer.update)
    expected = before
    for batch in BATCHES:
        value, grads = jax.value_and_grad(loss_fn)(PARAMS, batch)
        _, expected = update(grads, expected, PARAMS, value=value)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_the_sum_is_that_of_the_batches_gradients():
    after = collect(classp(0.1), loss_fn, classp(0.1).init(PARAMS), PARAMS, BATCHES)
    expected = jax.tree.map(np.zeros_like, PARAMS)
    for batch in BATCHES:
        logits = batch["inputs"] @ PARAMS["kernel"] + PARAMS["bias"]
        residual = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        residual = (residual - np.eye(3)[batch["labels"]]) / 8
        expected["kernel"] += abs(batch["inputs"].T @ residual)
        expected["bias"] += abs(residual.sum(0))
    chex.assert_trees_all_close(optax.tree.get(after, "grad_sum"), expected, rtol=1e-5)
    assert optax.tree.get(after, "count", filtering=lambda path, _: len(path) == 2) == 5


def test_a_stream_is_compiled_once_and_goes_on_where_it_stopped():
    compiled = 0

    def counted(params, batch):
        nonlocal compiled
        compiled += 1
        return loss_fn(params, batch)

    optimizer = classp(0.1)
    after = collect(optimizer, counted, optimizer.init(PARAMS), PARAMS, iter(BATCHES))
    assert compiled == 1
    twice = optimizer.init(PARAMS)
    for batches in (BATCHES[:2], BATCHES[2:]):
        twice = collect(optimizer, loss_fn, twice, PARAMS, batches)
    chex.assert_trees_all_equal(after, twice)


def test_the_state_lies_on_devices_as_it_did():
    place = NamedSharding(jax.make_mesh((2,), ("data",)), PartitionSpec("data", None))
    params = {**PARAMS, "kernel": jax.device_put(PARAMS["kernel"], place)}
    optimizer = classp(0.1)
    before = optimizer.init(params)
    after = collect(optimizer, loss_fn, before, params, BATCHES[:2])
    assert optax.tree.get(after, "grad_sum")["kernel"].sharding.is_equivalent_to(
        optax.tree.get(before, "grad_sum")["kernel"].sharding, 2
    )
    whole = collect(optimizer, loss_fn, optimizer.init(PARAMS), PARAMS, BATCHES[:2])
    chex.assert_trees_all_close(after, whole, rtol=1e-5)


def test_with_labels_of_the_model_squares_sum_up_to_the_fisher_information():
    draws = 1_000
    inputs = BATCHES[0]["inputs"]
    batches = ({"inputs": inputs, "seed": np.uint32(i)} for i in range(draws))
    optimizer = classp(0.1, power=2.0)
    opt_state = optimizer.init(PARAMS)
    after = collect(optimizer, sampled_loss_fn, opt_state, PARAMS, batches)
    probabilities = jax.nn.softmax(inputs @ PARAMS["kernel"] + PARAMS["bias"])
    variance = probabilities * (1 - probabilities)
    fisher = {
        "kernel": jnp.einsum("bi,bo->io", inputs**2, variance) / 8,
        "bias": variance.mean(0),
    }
    actual = jax.tree.map(lambda s: 8 * s / draws, optax.tree.get(after, "grad_sum"))
    chex.assert_trees_all_close(actual, fisher, rtol=0.2)


@pytest.mark.parametrize(
    ("optimizer", "loss", "batches", "error", "message"),
    [
        (classp(0.1), loss_fn, [], ValueError, "at least one batch, got none"),
        (classp(0.1), 3.0, BATCHES, TypeError, "loss_fn must be a function, got 3.0"),
        (classp, loss_fn, BATCHES, TypeError, "optimizer must be an Optax gradient"),
        (classp(0.1), lambda p, _: p["bias"], BATCHES, TypeError, "scalar-output"),
    ],
)
def test_what_cant_be_collected_is_said(optimizer, loss, batches, error, message):
    opt_state = classp(0.1).init(PARAMS)
    with pytest.raises(error, match=message):
        collect(optimizer, loss, opt_state, PARAMS, batches)


@pytest.mark.parametrize("partitioned", [False, True])
def test_the_report_has_what_is_protected_and_the_bounds_of_each_tensor(partitioned):
    optimizer = classp(0.1, power=2.0, eps=0.5)
    if partitioned:
        optimizer = optax.partition(
            {"kernel": optimizer, "bias": optimizer}, {k: k for k in PARAMS}
        )
    sums = {"kernel": jnp.ones((4, 3)).at[0].set(0), "bias": jnp.full(3, 5.0)}
    before = interop.with_grad_sum(optimizer.init(PARAMS), sums)
    after = collect(optimizer, loss_fn, before, PARAMS, BATCHES)
    keywords = dict(power=2.0, eps=0.5)
    report = tensor_report(before, after, 0.3, **keywords)
    bounds = classp_jax.displacement_bound(before, after, 0.3, **keywords)
    assert report.keys() == PARAMS.keys()
    for path, row in report.items():
        assert [type(value) for value in row] == [int, *[float] * 4]
        mean, largest = float(bounds[path].mean()), float(bounds[path].max())
        assert row.mean_bound == pytest.approx(mean, rel=1e-6)
        assert row.largest_bound == pytest.approx(largest)
        assert row.largest_bound > row.mean_bound > 0
    assert report["kernel"][:3] == (12, 0.75, 0.25)
    assert report["bias"][:3] == (3, 5.0, 0.0)


def test_the_report_of_an_empty_tensor_and_of_factored_sums():
    params = {"empty": jnp.zeros((0, 2))}
    opt_state = classp(0.1).init(params)
    report = tensor_report(opt_state, opt_state, 0.1)
    assert report == {"empty": classp_jax.TensorReport(0, 0.0, 0.0, 0.0, 0.0)}
    opt_state = OPTIMIZERS["factored"].init(PARAMS)
    with pytest.raises(ValueError, match="A factored sum bounds no single weight's"):
        tensor_report(opt_state, opt_state, 0.1)
