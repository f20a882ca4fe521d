"""Elastic weight consolidation against closed forms, loops and its own definition."""

import fractions
import itertools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import classp_jax
from classp_jax import baselines
from tests import helpers

pytestmark = pytest.mark.usefixtures("few_compiled_functions")

# The loss is 1/2 sum of a (w - c)^2, of task B; the anchor is task A's solution.
CURVATURE = jnp.array([1.0, 2.0, 0.5, 1.0])
CENTRE = jnp.array([3.0, -1.0, 0.5, 2.0])
ANCHOR = jnp.array([1.0, 1.0, -2.0, -1.0])
FISHER = jnp.array([0.5, 2.0, 1.0, 0.0])
START = jnp.array([0.0, 2.0, 1.0, 4.0])
RATE = 0.1


def loss_fn(w):
    return 0.5 * jnp.sum(CURVATURE * (w - CENTRE) ** 2)


def penalty(w, strength):
    return 0.5 * strength * jnp.sum(FISHER * (w - ANCHOR) ** 2)


def minimum(strength):
    """Of loss and penalty together, in float64."""
    a, c, f, anchor = (
        np.asarray(x, np.float64) for x in (CURVATURE, CENTRE, FISHER, ANCHOR)
    )
    return (a * c + strength * f * anchor) / (a + strength * f)


def ewc_sgd(strength, learning_rate=RATE, fisher=FISHER, anchor=ANCHOR):
    return optax.chain(
        baselines.ewc_penalty(fisher, anchor, strength, learning_rate),
        optax.sgd(RATE),
    )


def train(optimizer, steps=300):
    @jax.jit
    def run(params):
        def step(_, carry):
            params, opt_state = carry
            grads = jax.grad(loss_fn)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        return jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))[0]

    return run(START)


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0, 30.0, 1e4, 1e8])
def test_converges_to_the_minimum_at_any_strength(strength):
    chex.assert_trees_all_close(
        np.asarray(train(ewc_sgd(strength)), np.float64),
        minimum(strength),
        rtol=1e-5,
        atol=1e-6,
    )


def test_the_explicit_form_converges_below_its_bound_and_diverges_above():
    chex.assert_trees_all_close(
        np.asarray(train(ewc_sgd(1.0, learning_rate=0.0)), np.float64),
        minimum(1.0),
        rtol=1e-5,
        atol=1e-6,
    )
    for strength in (30.0, 1e8):  # The rate times these times a Fisher of 2: over 2.
        assert not np.all(np.abs(train(ewc_sgd(strength, learning_rate=0.0))) < 1e6)


TRUNK_AND_HEAD = {"trunk": START, "head": jnp.array([2.0, -3.0])}
PRETRAINED = {"trunk": ANCHOR, "head": jnp.zeros(2)}
TRUNK = {"trunk": True, "head": False}
HEAD = {"trunk": False, "head": True}


def l2_sp(alpha, beta, learning_rate):
    """The recipe of docs/concepts/baselines.md, before SGD."""
    ones = jax.tree.map(jnp.ones_like, PRETRAINED)
    pull = baselines.ewc_penalty(ones, PRETRAINED, alpha, learning_rate)
    return optax.chain(
        optax.masked(pull, TRUNK),
        optax.masked(optax.add_decayed_weights(beta), HEAD),
    )


def test_with_a_fisher_of_ones_it_is_l2_sp():
    """Its penalty: alpha / 2 |trunk - pretrained|^2 + beta / 2 |head|^2."""

    def of_the_paper(params, alpha, beta):
        pull = jnp.sum((params["trunk"] - ANCHOR) ** 2)
        return alpha / 2 * pull + beta / 2 * jnp.sum(params["head"] ** 2)

    grads = jax.tree.map(jnp.cos, TRUNK_AND_HEAD)
    for alpha, beta in ((0.0, 0.0), (0.1, 0.01), (3.0, 0.5)):
        solver = l2_sp(alpha, beta, learning_rate=0.0)
        opt_state = solver.init(TRUNK_AND_HEAD)
        actual, _ = solver.update(grads, opt_state, TRUNK_AND_HEAD)
        by_penalty = jax.grad(of_the_paper)(TRUNK_AND_HEAD, alpha, beta)
        expected = jax.tree.map(jnp.add, grads, by_penalty)
        chex.assert_trees_all_close(actual, expected, rtol=1e-6)


def test_l2_sp_converges_to_the_minimum_of_loss_and_penalty():
    alpha, beta = 7.0, 0.5
    solver = optax.chain(l2_sp(alpha, beta, RATE), optax.sgd(RATE))

    def loss(params):
        return loss_fn(params["trunk"]) + 0.5 * jnp.sum((params["head"] - 1) ** 2)

    def step(_, carry):
        params, opt_state = carry
        updates, opt_state = solver.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    carry = TRUNK_AND_HEAD, solver.init(TRUNK_AND_HEAD)
    params, _ = jax.jit(lambda carry: jax.lax.fori_loop(0, 300, step, carry))(carry)
    expected = {
        "trunk": (CURVATURE * CENTRE + alpha * ANCHOR) / (CURVATURE + alpha),
        "head": jnp.full(2, 1 / (1 + beta)),
    }
    chex.assert_trees_all_close(params, expected, rtol=1e-5)


class EwcPenaltyTest(chex.TestCase):
    GRADIENT = CURVATURE * (START - CENTRE)

    def gradient(self, penalty, gradient=GRADIENT, params=START):
        return self.variant(penalty.update)(gradient, penalty.init(params), params)[0]

    def step(self, optimizer, gradient=GRADIENT, params=START):
        return optax.apply_updates(params, self.gradient(optimizer, gradient, params))

    @chex.variants(with_jit=True, without_jit=True)
    def test_one_step_is_the_closed_form(self):
        rng = np.random.default_rng(0)
        g, w, anchor = np.float32(rng.normal(size=(3, 1000)))
        fisher = np.float32(10 ** rng.uniform(-12, 12, 1000))
        for dtype in (np.float32, np.float64):
            with helpers.enable_x64(dtype == np.float64):
                arrays = [jnp.asarray(x, dtype) for x in (g, w, anchor, fisher)]
                penalty = baselines.ewc_penalty(arrays[3], arrays[2], 3.0, RATE)
                actual = self.gradient(penalty, *arrays[:2])
                g_, w_, anchor_, k = (np.asarray(x, np.longdouble) for x in arrays)
                k, alpha = 3 * k, np.longdouble(dtype(RATE))
                distance = w_ - anchor_
                expected = (g_ + k * distance) / (1 + alpha * k)
                # The two terms may cancel: the unit is that of the larger.
                terms = np.maximum(np.abs(g_), np.abs(k * distance)) / (1 + alpha * k)
                error = np.abs(np.asarray(actual, np.longdouble) - expected)
                assert np.max(error / np.spacing(terms.astype(dtype))) <= 4

    @chex.variants(with_jit=True, without_jit=True)
    def test_before_sgd_it_is_the_proximal_step(self):
        w = np.asarray(START, np.float64)
        for strength in (0.1, 1.0, 100.0, 1e8):
            new = np.asarray(self.step(ewc_sgd(strength)), np.float64)
            pull = strength * np.asarray(FISHER * (new - ANCHOR), np.float64)
            # Both sides of w' = w - rate (g + strength F (w' - w*)), w' gathered.
            k = RATE * strength * np.asarray(FISHER, np.float64)
            expected = (w - RATE * self.GRADIENT + k * ANCHOR) / (1 + k)
            chex.assert_trees_all_close(new, np.asarray(expected), rtol=1e-6)
            if strength <= 1.0:
                chex.assert_trees_all_close(
                    new, w - RATE * (np.asarray(self.GRADIENT) + pull), rtol=1e-5
                )

    @chex.variants(with_jit=True, without_jit=True)
    def test_without_a_learning_rate_it_is_the_gradient_of_the_penalty(self):
        for strength in (0.3, 1.0, 1e4):
            penalized = baselines.ewc_penalty(FISHER, ANCHOR, strength, 0.0)
            expected = self.GRADIENT + jax.grad(penalty)(START, strength)
            chex.assert_trees_all_close(self.gradient(penalized), expected, rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_without_strength_it_is_sgd_to_the_bit(self):
        expected = self.step(optax.sgd(RATE))
        for strength in (0.0, 0, lambda step: 0.0 * step):
            chex.assert_trees_all_equal(self.step(ewc_sgd(strength)), expected)

    @chex.variants(with_jit=True, without_jit=True)
    def test_any_huge_strength_pins_to_the_anchor_what_has_a_fisher(self):
        expected = ANCHOR.at[3].set(self.step(optax.sgd(RATE))[3])
        for strength, scale in (
            (1e30, 1.0),
            (1e30, 1e30),  # Overflows float32.
            (lambda step: jnp.inf, 1.0),
        ):
            new = self.step(ewc_sgd(strength, fisher=scale * FISHER))
            chex.assert_trees_all_close(new, expected, rtol=1e-6)
            at_anchor = self.step(
                ewc_sgd(strength, fisher=scale * FISHER), params=ANCHOR
            )
            chex.assert_trees_all_equal(at_anchor[:3], ANCHOR[:3])
            # Explicit, there is no pull at the anchor.
            explicit = ewc_sgd(strength, learning_rate=0.0, fisher=scale * FISHER)
            chex.assert_trees_all_equal(
                self.step(explicit, params=ANCHOR),
                self.step(optax.sgd(RATE), params=ANCHOR),
            )

    @chex.variants(with_jit=True, without_jit=True)
    def test_strength_and_learning_rate_may_be_schedules(self):
        strengths, rates = jnp.array([0.0, 5.0, 1.0]), jnp.array([0.1, 0.2, 0.0])
        scheduled = baselines.ewc_penalty(
            FISHER, ANCHOR, lambda step: strengths[step], lambda step: rates[step]
        )
        update, state = self.variant(scheduled.update), scheduled.init(START)
        for step in range(3):
            assert state.count == step
            updates, state = update(self.GRADIENT, state, START)
            fixed = baselines.ewc_penalty(
                FISHER, ANCHOR, float(strengths[step]), float(rates[step])
            )
            chex.assert_trees_all_close(updates, self.gradient(fixed), rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_half_precision_is_rounded_once(self):
        for dtype in (jnp.bfloat16, jnp.float16):
            half = [x.astype(dtype) for x in (self.GRADIENT, START, ANCHOR)]
            wide = [x.astype(jnp.float32) for x in half]
            penalized = baselines.ewc_penalty(FISHER, half[2], 3.0, RATE)
            assert penalized.init(half[1]).anchor.dtype == dtype
            actual = self.gradient(penalized, *half[:2])
            expected = self.gradient(
                baselines.ewc_penalty(FISHER, wide[2], 3.0, RATE), *wide[:2]
            )
            assert actual.dtype == dtype
            chex.assert_trees_all_equal(actual, expected.astype(dtype))

    @chex.variants(with_jit=True, without_jit=True)
    def test_half_gradients_of_single_parameters(self):
        # In bfloat16 the weight and its anchor would be the same.
        w, anchor = jnp.array(1.001), jnp.array(1.0)
        penalized = baselines.ewc_penalty(jnp.array(1.0), anchor, 1.0, 0.0)
        actual = self.gradient(penalized, jnp.array(0.0, jnp.bfloat16), w)
        assert actual.dtype == jnp.bfloat16
        chex.assert_trees_all_equal(actual, (w - anchor).astype(jnp.bfloat16))

    @chex.variants(with_jit=True, without_jit=True)
    def test_any_pytree_and_missing_gradients(self):
        tree = helpers.tree_of_everything()
        penalized = baselines.ewc_penalty(tree, tree, 1.0, RATE)
        state = penalized.init(tree)
        update = self.variant(penalized.update)
        updates, new_state = update(tree, state, tree)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, tree)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)

        params = {"trained": jnp.ones(2), "integer": jnp.arange(3)}
        penalized = baselines.ewc_penalty(params, params, 1.0, RATE)
        updates, _ = self.variant(penalized.update)(
            {"trained": jnp.ones(2), "integer": None}, penalized.init(params), params
        )
        assert updates["integer"] is None
        chex.assert_trees_all_close(updates["trained"], jnp.full(2, 1 / 1.1))

    @chex.variants(with_jit=True, without_jit=True)
    def test_each_seed_under_vmap_has_its_own_fisher_and_anchor(self):
        def step(params, fisher, anchor, strength):
            optimizer = ewc_sgd(strength, fisher=fisher, anchor=anchor)
            grads = jax.grad(loss_fn)(params)
            updates, _ = optimizer.update(grads, optimizer.init(params), params)
            return optax.apply_updates(params, updates)

        seeds = [
            (START * s, FISHER + s, ANCHOR - s, jnp.float32(s)) for s in range(1, 4)
        ]
        actual = self.variant(jax.vmap(step))(*map(jnp.stack, zip(*seeds, strict=True)))
        expected = jnp.stack([step(*seed) for seed in seeds])
        chex.assert_trees_all_close(actual, expected, rtol=1e-6)


def test_the_state_is_eight_bytes_a_weight():
    params = {"kernel": jnp.ones((30, 20)), "bias": jnp.ones(20)}
    state = baselines.ewc_penalty(params, params, 1.0, RATE).init(params)
    sizes = [x.nbytes for x in jax.tree.leaves(state)]
    assert sum(sizes) - state.count.nbytes == 8 * 620


@pytest.mark.parametrize("wrapper", [lambda init: init, jax.jit])
def test_a_step_may_donate_the_parameters_that_are_the_anchor(wrapper):
    def make_params():
        return {"kernel": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "bias": jnp.ones(3)}

    params, before = make_params(), make_params()
    fisher = jax.tree.map(jnp.ones_like, params)
    optimizer = ewc_sgd(1e8, fisher=fisher, anchor=params)
    opt_state = wrapper(optimizer.init)(params)

    def step(params, opt_state, grads):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    step = jax.jit(step, donate_argnums=(0, 1))
    grads = jax.tree.map(jnp.ones_like, params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # JAX warns of a donation that it can't use.
        for _ in range(3):
            old = jax.tree.leaves((params, opt_state))
            params, opt_state = step(params, opt_state, grads)
            assert all(x.is_deleted() for x in old)
    assert step._cache_size() == 1
    assert not any(x.is_deleted() for x in jax.tree.leaves((params, opt_state, fisher)))
    chex.assert_trees_all_close(params, before, atol=1e-6)
    chex.assert_trees_all_equal(optax.tree.get(opt_state, "anchor"), before)


def test_a_new_task_does_not_recompile():
    optimizer = ewc_sgd(1e8)
    update, opt_state = jax.jit(optimizer.update), optimizer.init(START)
    update(START, opt_state, START)
    opt_state = baselines.set_penalty(opt_state, jnp.ones(4), 2 * ANCHOR)
    updates, _ = update(START, opt_state, START)
    chex.assert_trees_all_close(START + updates, 2 * ANCHOR, rtol=1e-6)
    assert update._cache_size() == 1


def test_fisher_and_anchor_are_no_constants_of_the_compiled_step():
    optimizer = ewc_sgd(1.0)
    jaxpr = jax.make_jaxpr(optimizer.update)(START, optimizer.init(START), START)
    assert not jaxpr.consts


def test_injected_values():
    make = optax.inject_hyperparams(
        baselines.ewc_penalty, static_args=("fisher", "anchor")
    )
    injected = make(FISHER, ANCHOR, strength=1.0, learning_rate=RATE)
    update, opt_state = jax.jit(injected.update), injected.init(START)
    for strength, rate in ((1.0, RATE), (30.0, 0.0), (0.0, 0.5)):
        opt_state = classp_jax.set_hyperparameters(
            opt_state, strength=strength, learning_rate=rate
        )
        actual, opt_state = update(START, opt_state, START)
        plain = baselines.ewc_penalty(FISHER, ANCHOR, strength, rate)
        expected, _ = plain.update(START, plain.init(START), START)
        chex.assert_trees_all_close(actual, expected, rtol=1e-6)
    assert update._cache_size() == 1


def test_a_gradient_that_is_not_finite_stays_so():
    optimizer = ewc_sgd(1.0, fisher=jnp.ones(2), anchor=jnp.ones(2))
    params = jnp.ones(2)
    updates, _ = optimizer.update(
        jnp.array([jnp.nan, 1.0]), optimizer.init(params), params
    )
    assert jnp.isnan(updates).tolist() == [True, False]


NUMBERS = ("gradient", "param", "strength", "learning_rate", "fisher", "anchor")


def update_of(gradient, param, strength, learning_rate, fisher, anchor):
    """An update as a function of every number in it."""
    penalized = baselines.ewc_penalty(anchor, anchor, strength, learning_rate)
    state = penalized.init(param)._replace(fisher=fisher)
    return penalized.update(gradient, state, param)[0]


def differences(*point):
    """Of the docstring's formula, by each number: exact, as in rational arithmetic."""

    def u(g, w, strength, rate, fisher, anchor):
        k = strength * fisher
        return (g + k * (w - anchor)) / (1 + rate * k)

    point = [fractions.Fraction(float(x)) for x in point]
    for i, x in enumerate(point):
        h = (abs(x) or fractions.Fraction(1)) / 2**200
        above, below = ([*point[:i], x + d, *point[i + 1 :]] for d in (h, -h))
        yield float((u(*above) - u(*below)) / (2 * h))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_derivative_by_every_number_is_that_of_finite_differences(dtype):
    # Of strength and Fisher the products overflow, underflow and are denormal.
    strengths, rates = (0, 1e-30, 1e-6, 1, 1e4, 1e30), (0, 0.1, 3)
    fishers = (0, 1e-39, 1e-25, 1e-12, 0.7, 1e3, 1e30)
    points = np.array(
        [(0.3, 1.5, *x, 1.0) for x in itertools.product(strengths, rates, fishers)],
        dtype,
    )
    points = points[points[:, 2].astype(float) * points[:, 4] < 1e37]
    with helpers.enable_x64(dtype == np.float64):
        columns = jnp.asarray(points).T
        argnums = tuple(range(len(NUMBERS)))
        with np.errstate(over="ignore"):  # By the learning rate, where it is 0.
            expected = np.array([list(differences(*x)) for x in points], dtype).T
        # What is denormal may be 0, before it meets a strength or a Fisher.
        lost = 2 * np.finfo(dtype).tiny * np.maximum(points[:, [2, 4]].max(1), 1)
        for derivatives in (jax.grad, jax.jacfwd):
            actual = jax.jit(jax.vmap(derivatives(update_of, argnums)))(*columns)
            for name, of, by in zip(NUMBERS, actual, expected, strict=True):
                finite = np.isfinite(by)
                error = np.abs(np.where(finite, of - by, 0))
                bound = 16 * np.finfo(dtype).eps * np.abs(by) + lost
                assert np.all(np.where(finite, error <= bound, of == by)), name


@pytest.mark.parametrize("derivatives", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_leaves_the_other_derivatives_alone(bad, derivatives):
    g, w, f = jnp.array([1.0, bad, 1e-40, 3.0]), jnp.arange(4.0), jnp.ones(4)

    def of_what_is_finite(gradient, strength, learning_rate):
        u = update_of(gradient, w, strength, learning_rate, f, jnp.zeros(4))
        return jnp.sum(jnp.where(jnp.isfinite(u), u, 0))

    numbers = (2.0, 0.1)
    actual = derivatives(of_what_is_finite, (1, 2))(g, *numbers)
    kept = jnp.array([0, 2, 3])

    def without(strength, learning_rate):
        return jnp.sum(
            update_of(g[kept], w[kept], strength, learning_rate, f[:3], jnp.zeros(3))
        )

    expected = derivatives(without, (0, 1))(*numbers)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)
    by_gradient = jax.grad(of_what_is_finite)(g, *numbers)
    chex.assert_trees_all_close(by_gradient[kept], jnp.full(3, 1 / 1.2), rtol=1e-6)


def test_an_infinite_importance_pins_unless_there_is_no_strength():
    g, w, f = jnp.ones(2), jnp.full(2, 3.0), jnp.array([jnp.inf, 1.0])
    free = update_of(g, w, 0.0, 0.5, f, jnp.ones(2))
    chex.assert_trees_all_equal(free, g)
    pinned = update_of(g, w, 1.0, 0.5, f, jnp.ones(2))
    chex.assert_trees_all_close(w - 0.5 * pinned, jnp.array([1.0, 2.0]))


@pytest.mark.parametrize("weights", [jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.bfloat16])
@pytest.mark.parametrize(
    "gradients", [jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.bfloat16, jnp.float32]
)
def test_short_weights_and_gradients_are_computed_in_float32(weights, gradients):
    g, w = jnp.array([1.0, -0.5]).astype(gradients), jnp.ones(2).astype(weights)
    penalized = baselines.ewc_penalty(jnp.array([1.0, 3.0]), w * 0, 2.0, 0.25)
    actual, state = jax.jit(penalized.update)(g, penalized.init(w), w)
    assert (actual.dtype, state.anchor.dtype) == (gradients, weights)
    expected = jnp.array([(1 + 2) / 1.5, (-0.5 + 6) / 2.5]).astype(gradients)
    chex.assert_trees_all_equal(
        actual.astype(jnp.float32), expected.astype(jnp.float32)
    )


@pytest.mark.parametrize(
    ("gradient", "error"), [(jnp.arange(2), TypeError), (jnp.ones(2) * 1j, ValueError)]
)
def test_gradients_that_are_not_real_are_refused_by_name(gradient, error):
    params = {"w": jnp.ones(2)}
    penalized = baselines.ewc_penalty(params, params, 1.0, RATE)
    with pytest.raises(error, match=r"w'?\]? is (int32|complex)"):
        penalized.update({"w": gradient}, penalized.init(params), params)


def test_abstract_parameters_have_an_abstract_anchor():
    sharding = NamedSharding(jax.make_mesh((8,), ("x",)), PartitionSpec("x"))
    abstract = jax.ShapeDtypeStruct((8, 2), jnp.bfloat16, sharding=sharding)
    concrete = jax.device_put(jnp.ones((8, 2), jnp.bfloat16), sharding)
    of_numbers = baselines.ewc_penalty(np.ones((8, 2)), concrete, 1.0, RATE)
    state = of_numbers.init(abstract)
    expected = of_numbers.init(concrete)
    chex.assert_trees_all_equal(state.fisher, expected.fisher)
    for of, like in zip(state[1:], expected[1:], strict=True):
        assert of.sharding == like.sharding
    of_nothing = baselines.ewc_penalty(abstract, abstract, 1.0, RATE)
    assert of_nothing.init(abstract).anchor == abstract
    shapes = jax.eval_shape(of_nothing.init, abstract)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, of_nothing.init(abstract))


def test_map_params():
    optimizer = ewc_sgd(1.0)
    opt_state = optax.tree.map_params(
        optimizer, lambda s: s + 2, optimizer.init(START), transform_non_params=str
    )
    chex.assert_trees_all_equal(optax.tree.get(opt_state, "fisher"), FISHER + 2)
    chex.assert_trees_all_equal(optax.tree.get(opt_state, "anchor"), ANCHOR + 2)


def test_the_state_keeps_the_parameters_sharding_over_eight_devices():
    mesh = jax.make_mesh((8,), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def two_steps(params, fisher):
        optimizer = ewc_sgd(3.0, fisher=fisher, anchor=params)

        @jax.jit
        def step(params, opt_state):
            updates, opt_state = optimizer.update(params - 1, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        opt_state = optimizer.init(params)
        result = step(*step(params, opt_state))
        assert step._cache_size() == 1
        return opt_state, result

    params, fisher = jnp.arange(16.0), jnp.arange(1.0, 17.0)
    _, expected = two_steps(params, fisher)
    opt_state, result = two_steps(jax.device_put(params, sharding), np.asarray(fisher))
    chex.assert_trees_all_close(result, expected)
    opt_state, result = two_steps(*jax.device_put((params, fisher), sharding))
    chex.assert_trees_all_close(result, expected)
    assert optax.tree.get(opt_state, "anchor").sharding == sharding
    for x in (result[0], *(optax.tree.get(result[1], k) for k in ("fisher", "anchor"))):
        assert x.sharding.is_equivalent_to(sharding, 1)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("strength", -1.0, ValueError),
        ("strength", float("inf"), ValueError),
        ("strength", float("nan"), ValueError),
        ("strength", np.ones(2), ValueError),
        ("strength", "1", TypeError),
        ("strength", None, TypeError),
        ("learning_rate", -1e-9, ValueError),
        ("learning_rate", jnp.float32(jnp.nan), ValueError),
        ("learning_rate", True, TypeError),
    ],
)
def test_wrong_hyperparameters_are_named(name, value, error):
    with pytest.raises(error, match=name):
        baselines.ewc_penalty(
            **{
                "fisher": FISHER,
                "anchor": ANCHOR,
                "strength": 1.0,
                "learning_rate": RATE,
                name: value,
            }
        )


@pytest.mark.parametrize("name", ["strength", "learning_rate"])
def test_a_schedule_must_give_a_scalar(name):
    arguments = {"strength": 1.0, "learning_rate": RATE, name: lambda step: START}
    penalized = baselines.ewc_penalty(FISHER, ANCHOR, **arguments)
    with pytest.raises(ValueError, match=f"{name} must be a scalar"):
        penalized.update(START, penalized.init(START), START)


@pytest.mark.parametrize("value", [-1e-9, np.nan, np.inf])
def test_a_fisher_below_zero_or_not_finite_is_named(value):
    fisher = {"a": jnp.ones(2), "b": jnp.array([1.0, value])}
    optimizer = baselines.ewc_penalty(fisher, fisher, 1.0, 0.1)
    with pytest.raises(ValueError, match="fisher must be finite and at least 0; b"):
        optimizer.init(fisher)


@pytest.mark.parametrize("name", ["fisher", "anchor"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"dense": {"kernel": jnp.ones((2, 3))}}, r"missing: \['dense.bias'\]"),
        (
            {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3), "b": 1.0}},
            r"unexpected: \['dense.b'\]",
        ),
        (
            {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(3)}},
            r"dense.kernel must have shape \(2, 3\), got \(3, 2\)",
        ),
        # What broadcasts would otherwise pass unseen.
        (
            {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(())}},
            r"dense.bias must have shape \(3,\), got \(\)",
        ),
    ],
)
def test_fisher_and_anchor_must_be_shaped_like_the_parameters(name, value, message):
    params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    trees = {"fisher": params, "anchor": params, name: value}
    penalized = baselines.ewc_penalty(**trees, strength=1.0, learning_rate=RATE)
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        penalized.init(params)


def test_update_requires_params():
    penalized = baselines.ewc_penalty(FISHER, ANCHOR, 1.0, RATE)
    with pytest.raises(ValueError, match="params"):
        penalized.update(START, penalized.init(START))


def test_complex_parameters_are_refused_by_name():
    params = {"spectrum": jnp.ones(2, jnp.complex64)}
    penalized = baselines.ewc_penalty(params, params, 1.0, RATE)
    with pytest.raises(ValueError, match="'spectrum'.*complex64"):
        penalized.init(params)


@pytest.mark.parametrize("wrap", ["masked", "partition"])
def test_masked_it_takes_the_trees_of_all_parameters(wrap):
    params = {"w": jnp.ones(2), "frozen": {"v": jnp.ones(3)}}
    fisher = {"w": jnp.full(2, 2.0), "frozen": {"v": jnp.full(3, -1.0)}}  # Unread.
    anchor = jax.tree.map(jnp.zeros_like, params)
    solver = baselines.ewc_penalty(fisher, anchor, 3.0, 0.0)
    if wrap == "masked":
        solver = optax.masked(solver, {"w": True, "frozen": False})
    else:
        labels = {"w": "held", "frozen": "free"}
        solver = optax.partition({"held": solver, "free": optax.identity()}, labels)
    updates, _ = solver.update(params, solver.init(params), params)
    expected = {"w": jnp.full(2, 1 + 3.0 * 2), "frozen": {"v": jnp.ones(3)}}
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)


def test_masked_it_names_what_does_not_fit():
    params = {"w": jnp.ones(2), "frozen": jnp.ones(3)}
    solver = baselines.ewc_penalty({"v": jnp.ones(2)}, params, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"missing: \['w'\], unexpected: \['v'\]"):
        optax.masked(solver, {"w": True, "frozen": False}).init(params)
