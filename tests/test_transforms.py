import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import classp_jax
from tests import helpers

pytestmark = pytest.mark.usefixtures("few_compiled_functions")

TRANSFORMS = {
    "threshold_mask": lambda: classp_jax.threshold_mask(0.1),
    "threshold_mask_tensor": lambda: classp_jax.threshold_mask(0.1, scope="tensor"),
    "threshold_mask_relative": lambda: classp_jax.threshold_mask(0.1, relative=True),
    "scale": classp_jax.scale_by_accumulated_power_norm,
    "decay_gate": lambda: classp_jax.decay_gate(
        classp_jax.scale_by_accumulated_power_norm(), True
    ),
    **{
        name: lambda reading=reading: reading(0.1)
        for name, reading in helpers.READINGS.items()
    },
}


class ThresholdMaskTest(chex.TestCase):
    def update(self, mask, gradient):
        update = self.variant(mask.update)
        return update(gradient, mask.init(gradient))[0]

    @chex.variants(with_jit=True, without_jit=True)
    def test_is_strict_to_the_bit(self):
        threshold = np.float32(0.3) ** 2
        below, at, above = (np.nextafter(np.float32(0.3), d) for d in (0, 0.3, 1))
        gradient = jnp.array([below, at, above, -at, -above], jnp.float32)
        updates = self.update(classp_jax.threshold_mask(threshold), gradient)
        chex.assert_trees_all_equal(
            np.asarray(updates), np.array([0, 0, above, 0, -above], np.float32)
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_threshold_zero_lets_every_finite_element_pass(self):
        gradient = jnp.array([1e-30, -1e-22, 0.0, 1e30, jnp.nan, -jnp.inf])
        updates = self.update(classp_jax.threshold_mask(0.0), gradient)
        expected = jnp.array([1e-30, -1e-22, 0.0, 1e30, 0.0, 0.0])
        chex.assert_trees_all_equal(updates, expected)

    @chex.variants(with_jit=True, without_jit=True)
    def test_float16_square_does_not_underflow(self):
        gradient = jnp.array([1e-4, 3e-4], jnp.float16)  # squares: 1e-8 and 9e-8
        updates = self.update(classp_jax.threshold_mask(2e-8), gradient)
        chex.assert_trees_all_equal(updates, gradient.at[0].set(0))

    @chex.variants(with_jit=True, without_jit=True)
    def test_scope_tensor(self):
        gradients = {
            "one above": jnp.array([0.1, 2.0, jnp.nan]),
            "none above": jnp.array([0.1, 1.0, 0.0]),
            "only infinity above": jnp.array([0.1, jnp.inf]),
            "empty": jnp.zeros((0,)),
        }
        mask = classp_jax.threshold_mask(1.0, scope="tensor")
        expected = {k: jnp.zeros_like(g) for k, g in gradients.items()}
        expected["one above"] = jnp.array([0.1, 2.0, 0.0])
        chex.assert_trees_all_equal(self.update(mask, gradients), expected)

    @chex.variants(with_jit=True, without_jit=True)
    def test_inner_sees_every_gradient(self):
        mask = classp_jax.threshold_mask(1.0, inner=optax.trace(decay=1.0))
        gradient = jnp.array([0.5, 2.0])
        update = self.variant(mask.update)
        updates, state = update(gradient, mask.init(gradient))
        updates, state = update(gradient, state)
        chex.assert_trees_all_equal(updates, jnp.array([0.0, 4.0]))
        chex.assert_trees_all_equal(state.inner_state.trace, jnp.array([1.0, 4.0]))


def relative_mask_in_numpy(gradient, threshold):
    """One element at a time, in float64; refuses squares too near the threshold."""
    squares = [float(g) ** 2 for g in np.ravel(gradient) if np.isfinite(float(g))]
    bound = threshold * sum(squares) / max(len(squares), 1)
    mask = np.zeros(np.shape(gradient), bool)
    for i, g in np.ndenumerate(gradient):
        if np.isfinite(float(g)):
            assert threshold == 0 or abs(float(g) ** 2 / bound - 1) > 1e-5
            mask[i] = threshold == 0 or float(g) ** 2 > bound
    return mask


class RelativeThresholdTest(chex.TestCase):
    RANDOM = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)

    def mask(self, gradient, threshold, **arguments):
        """Where the mask is open, having checked that it hands on what passes."""
        mask = classp_jax.threshold_mask(threshold, relative=True, **arguments)
        update = self.variant(mask.update)
        updates, _ = update(gradient, mask.init(gradient))
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, gradient)
        is_open = jax.tree.map(lambda u: np.asarray(u) != 0, updates)
        jax.tree.map(
            lambda m, u, g: chex.assert_trees_all_equal(u, jnp.where(m, g, 0)),
            is_open,
            updates,
            gradient,
        )
        return is_open

    @chex.variants(with_jit=True, without_jit=True)
    def test_by_hand(self):
        gradient = jnp.array([1.0, -2.0, 3.0, -4.0])  # the mean square is 7.5
        for threshold, expected in (
            (0.1, [True, True, True, True]),  # 0.75
            (0.5, [False, True, True, True]),  # 3.75
            (1.0, [False, False, True, True]),  # 7.5
            (1.2, [False, False, False, True]),  # 9, which isn't strictly above it
            (4.0, [False, False, False, False]),  # 30
        ):
            np.testing.assert_array_equal(self.mask(gradient, threshold), expected)

    @chex.variants(with_jit=True, without_jit=True)
    def test_equals_a_loop(self):
        for threshold in (0.0, 0.01, 0.5, 1.0, 2.5, 10.0):
            np.testing.assert_array_equal(
                self.mask(jnp.asarray(self.RANDOM), threshold),
                relative_mask_in_numpy(self.RANDOM, threshold),
            )

    @chex.variants(with_jit=True, without_jit=True)
    def test_the_size_of_the_gradient_does_not_matter(self):
        expected = relative_mask_in_numpy(self.RANDOM, 0.7)
        for scale in (1e-15, 1e-6, 1.0, 1e6, 1e15):
            gradient = jnp.asarray(np.float32(scale) * self.RANDOM)
            np.testing.assert_array_equal(self.mask(gradient, 0.7), expected)

    @chex.variants(with_jit=True, without_jit=True)
    def test_each_tensor_has_its_own_mean(self):
        gradients = {"small": jnp.array([1e-3, 2e-3]), "large": jnp.array([1e3, 2e3])}
        for is_open in self.mask(gradients, 1.0).values():
            np.testing.assert_array_equal(is_open, [False, True])

    @chex.variants(with_jit=True, without_jit=True)
    def test_elements_that_are_not_finite_do_not_count(self):
        bad = [np.nan, np.inf, -np.inf]
        gradient = np.concatenate([bad, self.RANDOM[0], bad]).astype(np.float32)
        for threshold in (0.0, 0.5, 1.0):
            # A sum over nine that is divided by fifteen would open more.
            np.testing.assert_array_equal(
                self.mask(jnp.asarray(gradient), threshold)[3:-3],
                relative_mask_in_numpy(self.RANDOM[0], threshold),
            )
            assert not self.mask(jnp.asarray(gradient), threshold)[[0, 1, 2]].any()
        opened = np.square(self.RANDOM[0]) > 0.6 * np.mean(np.square(self.RANDOM[0]))
        assert np.any(opened != relative_mask_in_numpy(self.RANDOM[0], 1.0))
        for nothing in (jnp.array(bad), jnp.zeros((0, 3)), jnp.zeros(4)):
            for threshold in (0.0, 0.5):
                assert not np.any(self.mask(nothing, threshold))

    @chex.variants(with_jit=True, without_jit=True)
    def test_an_empty_tensor_divides_nothing_by_nothing(self):
        mask = classp_jax.threshold_mask(0.5, relative=True)
        empty = jnp.zeros((0, 3))
        with jax.debug_nans(True), warnings.catch_warnings():
            warnings.simplefilter("error")
            updates, _ = self.variant(mask.update)(empty, mask.init(empty))
        chex.assert_trees_all_equal(updates, empty)

    @chex.variants(with_jit=True, without_jit=True)
    def test_where_the_squares_leave_the_range_only_threshold_zero_opens(self):
        for gradient in ([1e30, 2e30, 1.0], [1e-30, 2e-30, 1e-25]):
            assert np.all(self.mask(jnp.array(gradient), 0.0))
            for threshold in (1e-6, 1.0):
                assert not np.any(self.mask(jnp.array(gradient), threshold))

    @chex.variants(with_jit=True, without_jit=True)
    def test_half_precision_neither_overflows_nor_underflows(self):
        for dtype, scale in ((jnp.float16, 1e-4), (jnp.float16, 1e3)):
            gradient = jnp.asarray(scale * self.RANDOM, dtype)
            np.testing.assert_array_equal(
                self.mask(gradient, 0.7), relative_mask_in_numpy(gradient, 0.7)
            )
        gradient = jnp.asarray(self.RANDOM, jnp.bfloat16)
        np.testing.assert_array_equal(
            self.mask(gradient, 0.7), relative_mask_in_numpy(gradient, 0.7)
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_a_scalar_is_its_own_mean(self):
        for threshold, expected in ((0.0, True), (0.99, True), (1.0, False)):
            for value in (0.3, -1e-7, 1e7):
                assert self.mask(jnp.array(value), threshold) == expected

    @chex.variants(with_jit=True, without_jit=True)
    def test_scope_tensor(self):
        gradients = {"even": jnp.array([1.0, -1.1]), "one high": jnp.array([0.1, 9.0])}
        is_open = self.mask(gradients, 1.5, scope="tensor")
        assert not is_open["even"].any() and is_open["one high"].all()

    @chex.variants(with_jit=True, without_jit=True)
    def test_the_mean_is_of_the_gradient_and_not_of_what_inner_makes_of_it(self):
        mask = classp_jax.threshold_mask(1.0, relative=True, inner=optax.trace(1.0))
        update, state = self.variant(mask.update), mask.init(jnp.zeros(2))
        for gradient, expected in (([1.0, 9.0], [0.0, 9.0]), ([2.0, 1.0], [3.0, 0.0])):
            updates, state = update(jnp.array(gradient), state)
            chex.assert_trees_all_equal(updates, jnp.array(expected))
        chex.assert_trees_all_equal(state.inner_state.trace, jnp.array([3.0, 10.0]))

    @chex.variants(with_jit=True, without_jit=True)
    def test_a_schedule_changes_it(self):
        mask = classp_jax.threshold_mask(
            lambda step: jnp.array([0.5, 4.0])[step], relative=True
        )
        gradient = jnp.asarray(self.RANDOM)
        update, state = self.variant(mask.update), mask.init(gradient)
        for threshold in (0.5, 4.0):
            updates, state = update(gradient, state)
            np.testing.assert_array_equal(
                updates != 0, relative_mask_in_numpy(self.RANDOM, threshold)
            )

    def test_injecting_another_threshold_does_not_recompile(self):
        make = optax.inject_hyperparams(classp_jax.classp, static_args="power")
        optimizer = make(0.1, threshold=0.5, apply_decay=0.0, relative=True)
        gradient = jnp.asarray(self.RANDOM)
        update, opt_state = jax.jit(optimizer.update), optimizer.init(gradient)
        for threshold in (0.5, 4.0, 0.0):
            opt_state = classp_jax.set_hyperparameters(opt_state, threshold=threshold)
            updates, opt_state = update(gradient, opt_state, gradient)
            np.testing.assert_array_equal(
                updates != 0, relative_mask_in_numpy(self.RANDOM, threshold)
            )
        assert update._cache_size() == 1

    @chex.variants(with_jit=True, without_jit=True)
    def test_each_seed_under_vmap_has_its_own_mean(self):
        mask = classp_jax.threshold_mask(0.7, relative=True)
        gradients = jnp.asarray(
            self.RANDOM * np.logspace(-3, 3, 7)[:, None], jnp.float32
        )
        update = self.variant(jax.vmap(lambda g: mask.update(g, mask.init(g))[0]))
        np.testing.assert_array_equal(
            update(gradients) != 0,
            [relative_mask_in_numpy(row, 0.7) for row in np.asarray(gradients)],
        )

    def test_is_off_unless_asked_for_in_both_readings_that_have_it(self):
        gradient = jnp.array([1.0, 2.0, 3.0])  # a mean square of 4.7
        for make in (classp_jax.classp, classp_jax.classp_equation1):
            for relative, opened in (
                ({}, [False, True, True]),
                ({"relative": False}, [False, True, True]),
                ({"relative": True}, [False, False, True]),
            ):
                optimizer = make(0.1, 1.5, apply_decay=False, **relative)
                updates, _ = optimizer.update(gradient, optimizer.init(gradient))
                np.testing.assert_array_equal(updates != 0, opened)


@pytest.mark.parametrize("value", [None, 0, 1, 1.0, "yes", jnp.asarray(True)])
@pytest.mark.parametrize(
    "make", [classp_jax.threshold_mask, classp_jax.classp, classp_jax.classp_equation1]
)
def test_relative_must_be_a_bool(make, value):
    with pytest.raises(TypeError, match="relative must be True or False"):
        make(0.1, relative=value)


class ScaleByAccumulatedPowerNormTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_sum_before_or_after_this_step(self):
        gradient = jnp.array([2.0, -4.0])
        for include_current, expected in (
            (True, [[2 / 3, -4 / 5], [2 / 5, -4 / 9]]),
            (False, [[2.0, -4.0], [2 / 3, -4 / 5]]),
        ):
            scale = classp_jax.scale_by_accumulated_power_norm(
                eps=1.0, include_current=include_current
            )
            update, state = self.variant(scale.update), scale.init(gradient)
            for step in range(2):
                updates, state = update(gradient, state)
                chex.assert_trees_all_close(updates, jnp.array(expected[step]))
            chex.assert_trees_all_equal(state.grad_sum, jnp.array([4.0, 8.0]))

    @chex.variants(with_jit=True, without_jit=True)
    def test_float32_accumulator_goes_on_where_bfloat16_stops(self):
        gradient = jnp.ones((3,), jnp.bfloat16)
        for dtype, total in ((None, 300), (jnp.bfloat16, 256)):
            scale = classp_jax.scale_by_accumulated_power_norm(accumulator_dtype=dtype)
            update, state = self.variant(scale.update), scale.init(gradient)
            for _ in range(300):
                updates, state = update(gradient, state)
            assert updates.dtype == jnp.bfloat16
            assert np.all(np.asarray(state.grad_sum, np.float32) == total)


@pytest.mark.parametrize(
    ("power", "calls"), [(1, False), (1.0, False), (2, False), (2.0, False), (3, True)]
)
@pytest.mark.parametrize("reading", helpers.READINGS)
def test_powers_one_and_two_never_call_pow(reading, power, calls):
    optimizer = helpers.READINGS[reading](0.1, power=power)
    gradient = jnp.ones(3)
    program = jax.jit(optimizer.update).lower(gradient, optimizer.init(gradient))
    assert ("stablehlo.power" in program.as_text()) == calls


class DecayGateTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_collects_while_closed(self):
        for apply_decay in (
            False,
            0,
            0.0,
            jnp.asarray(False),
            lambda step: step < 0,
            lambda step: step * jnp.nan,
        ):
            gate = classp_jax.decay_gate(
                classp_jax.scale_by_accumulated_power_norm(), apply_decay
            )
            gradient = jnp.array([3.0])
            updates, state = self.variant(gate.update)(gradient, gate.init(gradient))
            chex.assert_trees_all_equal(updates, gradient)
            chex.assert_trees_all_equal(state.inner_state.grad_sum, gradient)


class AllTransformsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_any_pytree(self):
        for name, make in TRANSFORMS.items():
            with self.subTest(name):
                transform, tree = make(), helpers.tree_of_everything()
                state = transform.init(tree)
                update = self.variant(transform.update)
                updates, new_state = update(tree, state)
                chex.assert_trees_all_equal_shapes_and_dtypes(updates, tree)
                chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)

    def test_python_and_numpy_leaves(self):
        for name, make in TRANSFORMS.items():
            with self.subTest(name):
                transform, tree = make(), {"a": 1.0, "b": np.ones((2,), np.float32)}
                state = transform.init(tree)
                for _ in range(2):
                    updates, state = transform.update(tree, state, tree)
                chex.assert_trees_all_equal_shapes(
                    updates, jax.tree.map(jnp.asarray, tree)
                )

    @chex.variants(with_jit=True, without_jit=True)
    def test_params_optional_and_extra_arguments_ignored(self):
        gradient = jnp.array([0.5, 2.0])
        for name, make in TRANSFORMS.items():
            with self.subTest(name):
                transform = make()
                state = transform.init(gradient)
                update = self.variant(transform.update)
                alone = update(gradient, state)
                chex.assert_trees_all_equal(alone, update(gradient, state, gradient))
                extra = update(gradient, state, gradient, value=1.0, unknown=2)
                chex.assert_trees_all_equal(alone, extra)

    @chex.variants(with_jit=True, without_jit=True)
    def test_state_keeps_dtype_shape_and_weak_type(self):
        for name, make in TRANSFORMS.items():
            for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
                with self.subTest(f"{name} {dtype.__name__}"):
                    transform = make()
                    tree = {"strong": jnp.ones((2,), dtype), "weak": jnp.asarray(1.0)}
                    state = transform.init(tree)
                    updates, new_state = self.variant(transform.update)(tree, state)
                    assert updates["strong"].dtype == dtype
                    for old, new in zip(
                        jax.tree.leaves(state), jax.tree.leaves(new_state), strict=True
                    ):
                        assert old.aval == new.aval
                        assert not new.weak_type


@pytest.mark.parametrize("reading", helpers.READINGS)
@pytest.mark.parametrize(
    ("dtype", "requested", "expected"),
    [
        (jnp.float16, None, jnp.float32),
        (jnp.bfloat16, None, jnp.float32),
        (jnp.float32, None, jnp.float32),
        (jnp.float64, None, jnp.float64),
        (jnp.float32, jnp.bfloat16, jnp.bfloat16),
        (jnp.float64, "float32", jnp.float32),
        (jnp.float64, np.dtype(np.float32), jnp.float32),
        (jnp.bfloat16, jnp.float64, jnp.float64),
    ],
)
def test_dtypes(reading, dtype, requested, expected):
    with helpers.enable_x64(True):
        optimizer = helpers.READINGS[reading](0.1, accumulator_dtype=requested)
        params = jnp.ones((3,), dtype)
        opt_state = optimizer.init(params)
        assert optax.tree.get(opt_state, "grad_sum").dtype == expected
        updates, new_state = optimizer.update(params, opt_state)
        assert updates.dtype == dtype
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, opt_state)


class NonFiniteTest(chex.TestCase):
    BAD = jnp.array([jnp.nan, jnp.inf, -jnp.inf])

    @chex.variants(with_jit=True, without_jit=True)
    def test_bad_elements_touch_nothing(self):
        for reading in ("algorithm1", "equation1"):
            for apply_decay in (False, True):
                for threshold in (0.0, 0.1):
                    with self.subTest(f"{reading} {apply_decay} {threshold}"):
                        optimizer = helpers.READINGS[reading](
                            0.1, threshold, apply_decay=apply_decay
                        )
                        good = jnp.array([0.5, -2.0])
                        mixed = jnp.concatenate([good, self.BAD])
                        update = self.variant(optimizer.update)
                        updates, opt_state = update(mixed, optimizer.init(mixed))
                        alone, alone_state = update(good, optimizer.init(good))
                        zeros = jnp.zeros(3)
                        chex.assert_trees_all_equal(
                            updates, jnp.concatenate([alone, zeros])
                        )
                        chex.assert_trees_all_equal(
                            optax.tree.get(opt_state, "grad_sum"),
                            jnp.concatenate(
                                [optax.tree.get(alone_state, "grad_sum"), zeros]
                            ),
                        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_released_keeps_the_released_arithmetic(self):
        optimizer = classp_jax.classp_released(0.1)
        updates, opt_state = self.variant(optimizer.update)(
            self.BAD, optimizer.init(self.BAD)
        )
        chex.assert_trees_all_equal(jnp.isnan(updates), jnp.array([True] * 3))
        chex.assert_trees_all_equal(
            optax.tree.get(opt_state, "grad_sum"), jnp.abs(self.BAD)
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_the_bare_scaling_leaves_bad_elements_out(self):
        for include_current in (True, False):
            scale = classp_jax.scale_by_accumulated_power_norm(
                include_current=include_current
            )
            update = self.variant(scale.update)
            updates, state = update(self.BAD, scale.init(self.BAD))
            chex.assert_trees_all_equal(updates, jnp.zeros(3))
            chex.assert_trees_all_equal(state.grad_sum, jnp.zeros(3))


class CornersTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_half_precision_is_rounded_once_and_does_not_overflow_between_parts(self):
        gradient = jnp.array([1.0, 0.5, 100.0])
        for name, arguments in (
            ("equation1", dict(learning_rate=1e-3)),
            ("released", dict(learning_rate=1e-6, power=0.25)),
            ("algorithm1", dict(learning_rate=0.3)),
        ):
            optimizer = helpers.READINGS[name](**arguments)
            update = self.variant(optimizer.update)
            exact, _ = update(gradient, optimizer.init(gradient))
            for dtype in (jnp.float16, jnp.bfloat16):
                half = gradient.astype(dtype)
                updates, _ = update(half, optimizer.init(half))
                chex.assert_trees_all_equal(updates, exact.astype(dtype))

    @chex.variants(with_jit=True, without_jit=True)
    def test_a_weight_without_gradient_is_skipped(self):
        params = {"trained": jnp.ones(2), "integer": jnp.arange(3)}
        grads = {"trained": jnp.ones(2), "integer": None}
        for name, make in TRANSFORMS.items():
            with self.subTest(name):
                transform = make()
                state = transform.init(params)
                updates, new_state = self.variant(transform.update)(grads, state)
                assert updates["integer"] is None
                chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)

    @chex.variants(with_jit=True, without_jit=True)
    def test_a_zero_gradient_makes_no_step_where_eps_underflows(self):
        gradient = jnp.array([0.0, 1.0])
        for optimizer in (
            classp_jax.classp(0.1, eps=lambda step: 0.0),
            classp_jax.classp(0.1, power=0.5, eps=1e-30),  # Its square underflows.
        ):
            update = self.variant(optimizer.update)
            updates, _ = update(gradient, optimizer.init(gradient))
            chex.assert_trees_all_close(updates, jnp.array([0.0, -0.1]))


class ReleasedTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_threshold_is_inert_below_one_and_closes_everything_from_one_on(self):
        gradient = {"small": jnp.array([1e-6, 0.0]), "large": jnp.array([1e3, 2.0])}

        def run(threshold):
            optimizer = classp_jax.classp_released(0.1, threshold)
            update = self.variant(optimizer.update)
            return update(gradient, optimizer.init(gradient))

        inert = run(0.0)
        for threshold in (0.5, 0.99):
            chex.assert_trees_all_equal(run(threshold), inert)
        for threshold in (1.0, 2.0):
            updates, opt_state = run(threshold)
            for leaf in jax.tree.leaves(updates):
                assert not np.any(leaf)
            assert classp_jax.unassigned_share(opt_state) == 1

    @chex.variants(with_jit=True, without_jit=True)
    def test_power_changes_the_root_and_not_the_sum(self):
        optimizer = classp_jax.classp_released(1.0, power=2.0, eps=1.0)
        gradient = jnp.array([3.0])
        update = self.variant(optimizer.update)
        updates, opt_state = update(gradient, optimizer.init(gradient))
        chex.assert_trees_all_close(updates, jnp.array([-1.5]))
        chex.assert_trees_all_equal(optax.tree.get(opt_state, "grad_sum"), gradient)


WRONG_EVERYWHERE = [
    ("learning_rate", "0.1", TypeError),
    ("learning_rate", float("nan"), ValueError),
    ("threshold", -1e-9, ValueError),
    ("threshold", float("nan"), ValueError),
    ("threshold", float("inf"), ValueError),
    ("threshold", np.ones(2), ValueError),
    ("threshold", True, TypeError),
    ("threshold", None, TypeError),
    ("power", 0, ValueError),
    ("power", -1.0, ValueError),
    ("power", float("inf"), ValueError),
    ("power", jnp.ones(1), ValueError),
    ("power", jnp.float32(-1), ValueError),
    ("power", lambda step: 1.0, TypeError),
    ("power", None, TypeError),
    ("power", 10**400, ValueError),
    ("eps", 0.0, ValueError),
    ("eps", -1e-5, ValueError),
    ("eps", jnp.float32(-1e-5), ValueError),
    ("eps", float("nan"), ValueError),
    ("eps", 1j, TypeError),
    ("apply_decay", "yes", TypeError),
    ("apply_decay", None, TypeError),
    ("apply_decay", np.array([True, False]), ValueError),
    ("accumulator_dtype", jnp.int32, TypeError),
    ("accumulator_dtype", jnp.complex64, TypeError),
    ("accumulator_dtype", "float33", TypeError),
    ("accumulator_dtype", jnp.float8_e4m3fn, TypeError),
]


@pytest.mark.parametrize(("name", "value", "error"), WRONG_EVERYWHERE)
@pytest.mark.parametrize("reading", helpers.READINGS)
def test_wrong_arguments_are_named_at_construction(reading, name, value, error):
    with pytest.raises(error) as info:
        helpers.READINGS[reading](**{"learning_rate": 0.1, name: value})
    assert name in str(info.value)
    assert "shape" in str(info.value) or repr(value) in str(info.value)


def test_unknown_scope():
    with pytest.raises(ValueError, match="scope must be .* got 'layer'"):
        classp_jax.threshold_mask(0.1, scope="layer")


@pytest.mark.parametrize("name", ["threshold", "eps", "apply_decay", "memory"])
def test_a_schedule_must_give_a_scalar(name):
    optimizer = classp_jax.classp(0.1, **{name: lambda step: jnp.ones(3)})
    with pytest.raises(ValueError, match=f"{name} must be a scalar"):
        optimizer.update(jnp.ones(3), optimizer.init(jnp.ones(3)))


@pytest.mark.parametrize("name", ["threshold_mask", "scale", "decay_gate"])
def test_complex_gradients_and_parameters_are_refused_by_each_part(name):
    transform, spectrum = TRANSFORMS[name](), jnp.ones(2, jnp.complex64)
    with pytest.raises(ValueError, match="complex64"):
        transform.init(spectrum)
    with pytest.raises(ValueError, match="complex64"):
        transform.update(spectrum, transform.init(jnp.ones(2)))


@pytest.mark.parametrize("reading", helpers.READINGS)
def test_complex_parameters_are_refused_by_name(reading):
    params = {"real": jnp.ones(2), "spectrum": jnp.ones(2, jnp.complex64)}
    with pytest.raises(ValueError, match="'spectrum'.*complex64"):
        helpers.READINGS[reading](0.1).init(params)


def test_a_threshold_may_be_an_integer_of_any_size():
    optimizer = classp_jax.classp(1.0, threshold=10**10, apply_decay=False)
    gradient = jnp.array([1e4, 2e5])
    updates, _ = optimizer.update(gradient, optimizer.init(gradient))
    chex.assert_trees_all_equal(updates, jnp.array([-0.0, -2e5]))


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("reading", [classp_jax.classp, classp_jax.classp_equation1])
def test_updates_have_finite_derivatives_where_a_gradient_is_zero(
    reading, power, factored
):
    optimizer = reading(0.1, power=power, factored=factored)
    gradient = jnp.array([[0.0, 1.0, -2.0], [3.0, 0.0, 0.5], [1.0, 1.0, 1.0]])

    def sum_of_updates(gradient):
        updates, opt_state = optimizer.update(gradient, optimizer.init(gradient))
        more, _ = optimizer.update(gradient, opt_state)
        return jnp.sum(updates + more)

    assert jnp.all(jnp.isfinite(jax.grad(sum_of_updates)(gradient)))


@pytest.mark.parametrize("reading", helpers.READINGS)
def test_integer_gradients_make_the_steps_of_floating_ones(reading):
    optimizer = helpers.READINGS[reading](0.1, eps=1.0)
    params = jnp.array([1.0, 1.0])
    steps = []
    for gradient in (jnp.array([3, -5]), jnp.array([3.0, -5.0])):
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        steps.append(updates)
    chex.assert_trees_all_equal(*steps)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_released_reading_opens_where_pytorchs_square_is_not_zero(dtype):
    """In the gradient's own dtype, as the released class squares it."""
    least = float(jnp.finfo(dtype).smallest_subnormal)
    sizes = np.float64(least) ** 0.5 * np.array([0.5, 0.7, 0.72, 1, 2])
    sizes = sizes[sizes > float(jnp.finfo(jnp.float32).tiny)]
    for size in (*sizes, 0.0, float("nan")):
        gradient = torch.full((3,), size, dtype=getattr(torch, dtype))
        opens = bool(gradient.square().any())
        optimizer = classp_jax.classp_released(0.1, apply_decay=False)
        ours = jnp.full(3, size, dtype)
        for update in (optimizer.update, jax.jit(optimizer.update)):
            updates, _ = update(ours, optimizer.init(ours))
            assert bool(jnp.any(updates != 0)) == opens, size


@pytest.mark.parametrize("reading", ["algorithm1", "equation1", "released"])
def test_everything_injected_is_what_it_is_without(reading):
    make, params = helpers.READINGS[reading], jnp.array([1.0, -2.0, 0.5])
    gradients = [jnp.array([0.3, -0.2, 0.0]), jnp.array([0.1, jnp.nan, 2.0])]
    if reading == "released":
        gradients[1] = gradients[0]
    injected = optax.inject_hyperparams(make)(learning_rate=0.1)
    plain, closed = make(0.1), make(0.1, apply_decay=False)
    state, plain_state = injected.init(params), plain.init(params)
    assert set(state.hyperparams) == {
        *("learning_rate", "threshold", "power", "eps", "apply_decay")
    }
    for gradient in gradients:
        updates, state = jax.jit(injected.update)(gradient, state, params)
        expected, plain_state = plain.update(gradient, plain_state, params)
        chex.assert_trees_all_close(updates, expected, rtol=1e-6)
    state.hyperparams["apply_decay"] = jnp.float32(0)
    updates, _ = jax.jit(injected.update)(gradients[0], state, params)
    expected, _ = closed.update(gradients[0], plain_state, params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)


def test_what_stands_behind_the_threshold_has_a_name():
    for make in helpers.READINGS.values():
        with pytest.raises(TypeError, match="positional"):
            make(0.2, 0.5, 1e-5, 1, False)  # The order of the released class.
