"""What holds for every tree, dtype, hyperparameter and stream of gradients."""

from typing import NamedTuple

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

import classp_jax
from tests import helpers

READINGS = (classp_jax.classp, classp_jax.classp_equation1)
# Examples a property: 200 of all in the tests, 10,000 in the slow ones.
EXAMPLES = [29, pytest.param(1429, marks=pytest.mark.slow)]


class Leaf(NamedTuple):
    shape: tuple[int, ...]
    dtype: str


def is_leaf(node):
    return isinstance(node, Leaf)


# Few shapes, so that each operation is compiled a few times alone.
SHAPES = st.sampled_from([(), (3,), (2, 3), (0, 2)])
DTYPES = st.sampled_from(["float16", "bfloat16", "float32"])
WEIGHT = st.floats(-10, 10, width=32, allow_subnormal=False)  # XLA flushes them.
ORDINARY = st.floats(-(2**7), 2**7, width=16)
GRADIENT = ORDINARY | st.floats(width=32)  # NaN, infinities and denormals, too.
HYPERPARAMETERS = st.fixed_dictionaries(
    {
        "learning_rate": st.floats(1e-4, 10),
        "threshold": st.just(0.0) | st.floats(1e-12, 100) | st.floats(1e-12, 1e30),
        "power": st.sampled_from([0.5, 1, 1.5, 2, 3]),
        "eps": st.floats(1e-8, 1),
        "memory": st.none() | st.floats(2, 1e6),
    }
)


def trees(dtypes=DTYPES):
    return st.recursive(
        st.builds(Leaf, SHAPES, dtypes),
        lambda node: (
            st.lists(node, min_size=1, max_size=3)
            | st.tuples(node, node)
            | st.dictionaries(st.sampled_from("abc"), node, min_size=1)
        ),
        max_leaves=4,
    )


@st.composite
def problems(draw, tree=None, gradient=GRADIENT):
    """A tree of weights and one to three trees of gradients."""
    tree = draw(trees() if tree is None else tree)

    def filled(elements):
        def fill(leaf):
            array = draw(
                numpy_strategies.arrays(np.float32, leaf.shape, elements=elements)
            )
            with np.errstate(over="ignore"):
                return jnp.asarray(array, leaf.dtype)

        return jax.tree.map(fill, tree, is_leaf=is_leaf)

    return filled(WEIGHT), [filled(gradient) for _ in range(draw(st.integers(1, 3)))]


def holds(**strategies):
    """A test of a property, over few examples and, in the slow suite, over many."""

    def decorate(check):
        @pytest.mark.parametrize("examples", EXAMPLES)
        def test(examples):
            hypothesis.settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )(hypothesis.given(**strategies)(check))()

        test.__name__ = check.__name__
        return test

    return decorate


def grad_sum(opt_state):
    return optax.tree.get(opt_state, "grad_sum")


def run(optimizer, params, gradients, update=None):
    """Updates and sums of each step; the gradients don't depend on the weights."""
    opt_state, outcomes = optimizer.init(params), []
    for gradient in gradients:
        updates, opt_state = (update or optimizer.update)(gradient, opt_state, params)
        outcomes.append((updates, grad_sum(opt_state)))
    return outcomes


def bits(tree):
    return jax.tree.map(lambda x: np.asarray(x).view(f"u{x.dtype.itemsize}"), tree)


readings = st.sampled_from([*READINGS, *helpers.FACTORED.values()])


@holds(reading=readings, problem=problems(), hyperparameters=HYPERPARAMETERS)
def test_the_sum_never_decreases_but_by_what_is_forgotten(
    reading, problem, hyperparameters
):
    params, gradients = problem
    optimizer = reading(**hyperparameters)
    left = 1 - 1 / (hyperparameters["memory"] or np.inf)
    rounding = 0 if left == 1 else 1e-6
    before = grad_sum(optimizer.init(params))
    for _, after in run(optimizer, params, gradients):
        for s, t in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            least = np.float64(s) * left * (1 - rounding)
            assert np.all(np.isfinite(t)) and np.all(t >= least)
        before = after


@holds(
    reading=readings,
    problem=problems(),
    hyperparameters=HYPERPARAMETERS,
    data=st.data(),
)
def test_a_weight_at_or_below_the_threshold_keeps_its_bits(
    reading, problem, hyperparameters, data
):
    params, (gradient, *_) = problem
    sizes = [abs(float(g)) for leaf in jax.tree.leaves(gradient) for g in leaf.ravel()]
    squares = [float(np.float32(g) ** 2) for g in sizes if 1e-6 < g < 1e6]
    if squares:  # Just at one of them.
        theta = data.draw(st.sampled_from(squares) | st.just(None))
        hyperparameters |= {} if theta is None else {"threshold": theta}
    theta = np.float32(hyperparameters["threshold"])
    optimizer = reading(**hyperparameters)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    moved = optax.apply_updates(params, updates)
    for g, p, q in zip(*map(jax.tree.leaves, (gradient, params, moved)), strict=True):
        size = np.asarray(g, np.float32)
        with np.errstate(over="ignore"):
            below = (size**2 <= theta) & (theta > 0)
        closed = below | ~np.isfinite(size)
        np.testing.assert_array_equal(bits(p)[closed], bits(q)[closed])
        # At a threshold of 0 a gradient of -0 passes: +0 is added, and -0 + 0 is +0.
        zero = size == 0
        np.testing.assert_array_equal(np.asarray(p)[zero], np.asarray(q)[zero])


@holds(
    reading=st.sampled_from(READINGS),
    problem=problems(trees(st.just("float32"))),
    hyperparameters=HYPERPARAMETERS,
    seed=st.integers(0, 2**32 - 1),
)
def test_how_weights_are_laid_out_in_tensors_does_not_matter(
    reading, problem, hyperparameters, seed
):
    params, gradients = problem
    order = np.random.default_rng(seed).permutation(
        sum(p.size for p in jax.tree.leaves(params))
    )

    def in_one(tree):
        leaves = [np.ravel(x) for x in jax.tree.leaves(tree)]
        return jnp.asarray(np.concatenate(leaves)[order])

    optimizer = reading(**hyperparameters)
    apart = run(optimizer, params, gradients)
    together = run(optimizer, in_one(params), [in_one(g) for g in gradients])
    for (updates, s), (expected, t) in zip(apart, together, strict=True):
        chex.assert_trees_all_equal((in_one(updates), in_one(s)), (expected, t))


@holds(
    reading=readings,
    problem=problems(trees(st.just("float32")), ORDINARY),
    hyperparameters=HYPERPARAMETERS,
    exponent=st.integers(-10, 10),
    factor=st.floats(0.01, 100),
)
def test_updates_are_proportional_to_the_learning_rate(
    reading, problem, hyperparameters, exponent, factor
):
    plain = run(reading(**hyperparameters), *problem)
    rate = hyperparameters.pop("learning_rate")
    for scale, tolerance in ((2.0**exponent, 0), (factor, 4e-7)):
        scaled = run(reading(rate * scale, **hyperparameters), *problem)
        for (u, s), (v, t) in zip(plain, scaled, strict=True):
            chex.assert_trees_all_equal(s, t)
            u = jax.tree.map(lambda x, scale=scale: x * scale, u)
            chex.assert_trees_all_close(u, v, rtol=tolerance, atol=tolerance * 1e-30)


@holds(
    reading=readings,
    problem=problems(),
    hyperparameters=HYPERPARAMETERS,
    open_from=st.integers(0, 3),
)
def test_what_is_collected_does_not_depend_on_the_gate(
    reading, problem, hyperparameters, open_from
):
    sums = [
        [s for _, s in run(reading(**hyperparameters, apply_decay=gate), *problem)]
        for gate in (True, False, lambda step: step >= open_from)
    ]
    chex.assert_trees_all_equal(sums[0], sums[1])
    chex.assert_trees_all_equal(sums[0], sums[2])


@holds(
    reading=readings,
    # A compiled step flushes denormals to zero where single operations may not.
    problem=problems(gradient=ORDINARY | st.floats(width=32, allow_subnormal=False)),
    hyperparameters=HYPERPARAMETERS,
)
def test_compiled_it_is_the_same(reading, problem, hyperparameters):
    optimizer = reading(**hyperparameters)
    compiled = run(optimizer, *problem, update=jax.jit(optimizer.update))
    for one, other in zip(compiled, run(optimizer, *problem), strict=True):
        chex.assert_trees_all_close(one, other, rtol=1e-6)


@holds(
    reading=readings,
    pair=trees().flatmap(
        lambda tree: st.tuples(*[problems(st.just(tree)) for _ in range(2)])
    ),
    hyperparameters=HYPERPARAMETERS,
)
def test_it_commutes_with_vmap(reading, pair, hyperparameters):
    optimizer = reading(**hyperparameters)
    steps = min(len(gradients) for _, gradients in pair)
    alone = [run(optimizer, params, gradients[:steps]) for params, gradients in pair]

    def stacked(*trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    (p, gs), (q, hs) = pair
    params = stacked(p, q)
    opt_state = jax.vmap(optimizer.init)(params)
    chex.assert_trees_all_equal(opt_state, stacked(*map(optimizer.init, (p, q))))
    for step in range(steps):
        gradient = stacked(gs[step], hs[step])
        updates, opt_state = jax.vmap(optimizer.update)(gradient, opt_state, params)
        expected = stacked(*(outcomes[step] for outcomes in alone))
        chex.assert_trees_all_equal((updates, grad_sum(opt_state)), expected)
