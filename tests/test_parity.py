"""The JAX transformations against the PyTorch reference and the identities."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import classp_jax
from classp_jax.verify._distance import differences
from classp_jax.verify._streams import gradient_stream, random_params
from tests import helpers
from tests.reference.optimizer import Classp

STEPS = 1000
POWERS = [0.5, 1.0, 1.5, 2.0, 3.0]
THRESHOLDS = [0.0, 1e-6, 1e-2, 0.5]


def tolerance(dtype, power):
    if dtype == np.float64:
        return 1e-12
    return 1e-6 if power in (1.0, 2.0) else 1e-5


def torch_trajectory(reading, hyperparameters, params, gradients, is_open, power):
    """That of the reference; of tensors that it goes through alike as one, for speed.

    The released reading asks of each tensor whether any of its gradients is not 0.
    """
    if reading == "released":
        arguments = hyperparameters, params, gradients, is_open
        return helpers.torch_trajectory(reading, *arguments, power=power)

    def joined(tree, *steps):
        return {"all": np.hstack([tree[name].reshape(*steps, -1) for name in params])}

    steps = len(is_open)
    trees = helpers.torch_trajectory(
        reading,
        hyperparameters,
        joined(params),
        joined(gradients, steps),
        is_open,
        power=power,
    )
    ends = np.cumsum([p.size for p in params.values()])[:-1]

    def apart(tree):
        parts = zip(params.items(), np.hsplit(tree["all"], ends), strict=True)
        return {name: part.reshape(steps, *p.shape) for (name, p), part in parts}

    return tuple(map(apart, trees))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("reading", helpers.READINGS)
def test_trajectory_equals_pytorch(reading, power, dtype):
    is_open = np.arange(STEPS) >= STEPS // 2
    with helpers.enable_x64(dtype == np.float64):
        run = helpers.jax_trajectory(reading, power=power)
        for threshold in THRESHOLDS:
            params = random_params(0, dtype)
            gradients = gradient_stream(1, STEPS, [threshold], dtype)
            hyperparameters = dict(learning_rate=0.1, threshold=threshold, eps=1e-5)
            arguments = (hyperparameters, params, gradients, is_open)
            actual = run(*arguments)
            expected = torch_trajectory(reading, *arguments, power)
            assert_alike(actual, expected, tolerance(dtype, power), threshold)


def assert_alike(actual, expected, tolerance, what):
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    for a, e in zip(actual, expected, strict=True):
        for name in e:
            error = differences(a[name], e[name]).relative.max()
            assert error <= tolerance, (what, name)


FACTORED_STEPS = 200


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("reading", ["algorithm1", "equation1"])
def test_factored_trajectory_equals_pytorch(reading, power, dtype):
    is_open = np.arange(FACTORED_STEPS) >= FACTORED_STEPS // 2
    static = dict(power=power, factored=True)
    with helpers.enable_x64(dtype == np.float64):
        run = helpers.jax_trajectory(reading, **static)
        for threshold in [0.0, 1e-2]:
            params = random_params(8, dtype)
            gradients = gradient_stream(9, FACTORED_STEPS, [threshold], dtype)
            # An eps that keeps the first steps, and so the weights, from growing.
            hyperparameters = dict(learning_rate=0.1, threshold=threshold, eps=1e-2)
            arguments = (hyperparameters, params, gradients, is_open)
            actual = run(*arguments)
            expected = helpers.torch_trajectory(reading, *arguments, **static)
            assert_alike(actual, expected, tolerance(dtype, power), threshold)


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("reading", ["algorithm1", "equation1"])
def test_forgetting_trajectory_equals_pytorch(reading, factored):
    is_open = np.arange(FACTORED_STEPS) >= FACTORED_STEPS // 2
    with helpers.enable_x64(True):
        run = helpers.jax_trajectory(reading, factored=factored)
        params = random_params(8, np.float64)
        gradients = gradient_stream(9, FACTORED_STEPS, [1e-2], np.float64)
        hyperparameters = dict(learning_rate=0.1, threshold=1e-2, eps=1e-2)
        for memory in (2.0, 30.0, 1e3):
            actual = run(
                hyperparameters | dict(memory=memory), params, gradients, is_open
            )
            arguments = (hyperparameters, params, gradients, is_open)
            static = dict(factored=factored, memory=memory)
            expected = helpers.torch_trajectory(reading, *arguments, **static)
            assert_alike(actual, expected, tolerance(np.float64, 1.0), memory)


RELATIVE_STEPS = 200
RELATIVE_THRESHOLDS = [0.5, 1.0, 10.0]


def mean_squares(gradient):
    """Of each step's tensor, in float64, shaped to divide the gradients' squares."""
    axes = tuple(range(1, gradient.ndim))
    return np.square(gradient, dtype=np.float64).mean(axes, keepdims=True)


def near_a_relative_threshold(gradient):
    """Where a square is so near a threshold that rounding could decide."""
    ratio = np.square(gradient, dtype=np.float64) / mean_squares(gradient)
    return np.any([np.abs(ratio / t - 1) < 1e-4 for t in RELATIVE_THRESHOLDS], axis=0)


def relative_stream(seed, dtype):
    """Gradients with a gap around each relative threshold."""
    stream = gradient_stream(seed, RELATIVE_STEPS, [], dtype)
    for name, gradient in stream.items():
        # A scalar is its own mean square: at 1 both sides are the same number.
        while name != "scalar" and near_a_relative_threshold(gradient).any():
            gradient[near_a_relative_threshold(gradient)] *= dtype(1.01)
    return stream


def relative_trajectory_in_jax(reading, power):
    @jax.jit
    def run(threshold, params, gradients):
        optimizer = helpers.READINGS[reading](
            0.1,
            threshold,
            power=power,
            apply_decay=lambda step: step >= RELATIVE_STEPS // 2,
            relative=True,
        )

        def step(carry, grads):
            params, opt_state = carry
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            grad_sum = optax.tree.get(opt_state, "grad_sum")
            return (params, opt_state), (params, grad_sum)

        return jax.lax.scan(step, (params, optimizer.init(params)), gradients)[1]

    return lambda *arguments: jax.device_get(run(*arguments))


def relative_trajectory_in_torch(reading, power, threshold, params, gradients):
    weights = {k: torch.tensor(p, requires_grad=True) for k, p in params.items()}
    optimizer = Classp(
        weights.values(), 0.1, threshold, power, reading=reading, relative=True
    )
    trajectory = []
    for t in range(RELATIVE_STEPS):
        for name, w in weights.items():
            w.grad = torch.tensor(gradients[name][t])
        optimizer.param_groups[0]["apply_decay"] = t >= RELATIVE_STEPS // 2
        optimizer.step()
        sums = {k: optimizer.state[w]["grad_sum"] for k, w in weights.items()}
        trajectory.append(
            [
                {k: x.detach().numpy().copy() for k, x in tree.items()}
                for tree in (weights, sums)
            ]
        )
    return jax.tree.map(lambda *steps: np.stack(steps), *trajectory)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("reading", ["algorithm1", "equation1"])
def test_relative_trajectory_equals_pytorch(reading, power, dtype):
    params, gradients = random_params(6, dtype), relative_stream(7, dtype)
    for name, gradient in gradients.items():
        if name != "scalar":
            assert not near_a_relative_threshold(gradient).any(), name
    with helpers.enable_x64(dtype == np.float64):
        run = relative_trajectory_in_jax(reading, power)
        for threshold in RELATIVE_THRESHOLDS:
            actual = run(threshold, params, gradients)
            expected = relative_trajectory_in_torch(
                reading, power, threshold, params, gradients
            )
            for name in params:
                for a, e in zip(actual, expected, strict=True):
                    assert a[name].dtype == e[name].dtype == dtype
                    error = differences(a[name], e[name]).relative.max()
                    assert error <= tolerance(dtype, power), (threshold, name)
            # Some weights of a tensor move at a step, and some don't.
            stays = np.diff(expected[0]["ordinary"], axis=0) == 0
            assert np.any(stays) and not np.all(stays)


@pytest.mark.parametrize("apply_decay", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("reading", helpers.READINGS)
def test_one_step_within_four_units_in_the_last_place(
    reading, power, dtype, apply_decay
):
    """From equal weights and sums: what one step alone differs by.

    The weight's unit is that of the larger of the old and the new weight, as the
    subtraction of an update from a weight of its own size cancels leading digits.
    """
    hyperparameters = dict(learning_rate=0.1, threshold=1e-2, eps=1e-5)
    warm_up, steps = 20, 21
    is_open = np.arange(steps) >= (warm_up if apply_decay else steps)
    params = random_params(2, dtype)
    gradients = gradient_stream(3, steps, [1e-2], dtype)
    weights, sums = helpers.torch_trajectory(
        reading, hyperparameters, params, gradients, is_open, power=power
    )
    before = {k: w[-2] for k, w in weights.items()}
    with helpers.enable_x64(dtype == np.float64):
        optimizer = helpers.READINGS[reading](
            power=power, apply_decay=apply_decay, **hyperparameters
        )
        opt_state = optax.tree.set(
            optimizer.init(before),
            grad_sum={k: jnp.asarray(s[-2]) for k, s in sums.items()},
        )

        @jax.jit
        def step(grads, opt_state, params):
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        after, opt_state = step(
            {k: g[-1] for k, g in gradients.items()}, opt_state, before
        )
        for name, old in before.items():
            new = weights[name][-1]
            unit_at = np.maximum(np.abs(old), np.abs(new))
            assert helpers.ulp_distance(after[name], new, unit_at) <= 4
            grad_sum = optax.tree.get(opt_state, "grad_sum")[name]
            assert helpers.ulp_distance(grad_sum, sums[name][-1]) <= 4


def algorithm1_in_numpy(
    params, gradients, learning_rate, threshold, power, eps, apply_decay
):
    """Algorithm 1 line by line, one weight at a time."""
    w, grad_sum = params.copy(), np.zeros_like(params)
    for step, grads in enumerate(gradients):
        for i, grad in np.ndenumerate(grads):
            if grad**2 > threshold:  # line 9
                grad_sum[i] += abs(grad) ** power  # line 11
                scaling_factor = learning_rate  # the gate closed: Section 4.1
                if apply_decay[step]:  # line 12
                    scaling_factor /= (eps + grad_sum[i]) ** (1 / power)  # line 14
                w[i] -= scaling_factor * grad  # line 15
    return w, grad_sum


class IdentitiesTest(chex.TestCase):
    """What the paper says CLASSP is in special cases."""

    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(5)
        self.params = np.asarray(rng.normal(size=(4, 5)), np.float32)
        self.gradients = np.asarray(rng.normal(size=(50, 4, 5)), np.float32)

    def run_jax(self, optimizer):
        # The sum stays outside: in one program with it, XLA may round a product and a
        # sum once, on some processors and in one of two programs.
        update = self.variant(optimizer.update)
        params, opt_state = jnp.asarray(self.params), optimizer.init(self.params)
        for grads in self.gradients:
            updates, opt_state = update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
        return params, opt_state

    @chex.variants(with_jit=True, without_jit=True)
    def test_power_two_is_adagrad(self):
        eps = 1e-3
        actual, _ = self.run_jax(classp_jax.classp(0.1, power=2, eps=eps))
        adagrad = optax.adagrad(0.1, initial_accumulator_value=eps, eps=0.0)
        expected, _ = self.run_jax(adagrad)
        chex.assert_trees_all_close(actual, expected, rtol=1e-6)

        weight = torch.tensor(self.params, requires_grad=True)
        optimizer = torch.optim.Adagrad(
            [weight], lr=0.1, initial_accumulator_value=eps, eps=0.0
        )
        for grads in self.gradients:
            weight.grad = torch.tensor(grads)
            optimizer.step()
        chex.assert_trees_all_close(
            np.asarray(actual), weight.detach().numpy(), rtol=1e-5, atol=1e-7
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_closed_gate_is_sgd(self):
        actual, _ = self.run_jax(classp_jax.classp(0.1, apply_decay=False))
        expected, _ = self.run_jax(optax.sgd(0.1))
        chex.assert_trees_all_equal(actual, expected)

    @chex.variants(with_jit=True, without_jit=True)
    def test_chain_equals_a_loop_written_from_algorithm_1(self):
        is_open = np.arange(len(self.gradients)) >= 20
        arguments = dict(learning_rate=0.1, threshold=0.3, power=1.5, eps=1e-3)
        optimizer = classp_jax.classp(**arguments, apply_decay=lambda step: step >= 20)
        actual, opt_state = self.run_jax(optimizer)
        expected, grad_sum = algorithm1_in_numpy(
            self.params, self.gradients, **arguments, apply_decay=is_open
        )
        chex.assert_trees_all_close(np.asarray(actual), expected, rtol=1e-5)
        chex.assert_trees_all_close(
            np.asarray(optax.tree.get(opt_state, "grad_sum")), grad_sum, rtol=1e-6
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_without_threshold_released_equals_algorithm_1_at_power_one(self):
        actual, _ = self.run_jax(classp_jax.classp_released(0.1))
        expected, _ = self.run_jax(classp_jax.classp(0.1))
        chex.assert_trees_all_close(actual, expected, rtol=1e-6)
