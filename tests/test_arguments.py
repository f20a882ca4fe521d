"""No constructor accepts nonsense, and each says what it was given."""

import decimal
import fractions
import inspect

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import classp_jax
from classp_jax import baselines

NUMBER, SWITCH, FLAG, POWER, COUNT, COUNT_OR_NONE, MEMORY, DTYPE, SCOPE, PART, TREE = (
    range(11)
)
AVERAGE, FRACTION, KEY = range(11, 14)
KINDS = {
    "learning_rate": NUMBER,
    "threshold": NUMBER,
    "eps": NUMBER,
    "strength": NUMBER,
    "damping": NUMBER,
    "xi1": NUMBER,
    "xi2": NUMBER,
    "power": POWER,
    "exponent": POWER,
    "refresh_every": COUNT_OR_NONE,
    "max_dim": COUNT,
    "rank": COUNT_OR_NONE,
    "memory": MEMORY,
    "apply_decay": SWITCH,
    "relative": FLAG,
    "factored": FLAG,
    "bounded": FLAG,
    "include_current": FLAG,
    "accumulator_dtype": DTYPE,
    "scope": SCOPE,
    "inner": PART,
    "fisher": TREE,
    "anchor": TREE,
    "b1": AVERAGE,
    "b2": AVERAGE,
    "batch_size": NUMBER,
    "beta_utility": AVERAGE,
    "correct_maximum": FLAG,
    "fraction": FRACTION,
    "initial_std": POWER,
    "key": KEY,
    "sigma": NUMBER,
    "weight_decay": NUMBER,
}
RIGHT = {
    "learning_rate": 0.1,
    "threshold": 0.1,
    "strength": 1.0,
    "apply_decay": True,
    "inner": optax.identity(),
    "fisher": jnp.ones(2),
    "anchor": jnp.ones(2),
    "batch_size": 1,
}
CONSTRUCTORS = [
    classp_jax.classp,
    classp_jax.classp_equation1,
    classp_jax.classp_released,
    classp_jax.classp_gram,
    classp_jax.threshold_mask,
    classp_jax.scale_by_accumulated_power_norm,
    classp_jax.scale_by_accumulated_gram,
    classp_jax.decay_gate,
    baselines.bgd,
    baselines.ewc_penalty,
    baselines.mofo,
    baselines.scale_by_mofo,
    baselines.sc_adagrad,
    baselines.scale_by_sc_adagrad,
    baselines.synaptic_intelligence,
    baselines.upgd,
]
CASES = [
    (constructor, name)
    for constructor in CONSTRUCTORS
    for name in inspect.signature(constructor).parameters
    if KINDS[name] != TREE
]
THING = (
    st.text()
    | st.binary()
    | st.complex_numbers()
    | st.lists(st.integers())
    | st.dictionaries(st.text(), st.none())
    | st.builds(object)
    | st.builds(fractions.Fraction, st.integers())
    | st.builds(decimal.Decimal, st.integers())
    | st.builds(np.str_, st.text())
    | st.builds(np.datetime64, st.integers(0, 9), st.just("s"))
    | st.builds(lambda n: jnp.zeros(n), st.integers(0, 3))
    | st.builds(lambda n: np.zeros((n, 1)), st.integers(0, 3))
    | st.just(jnp.zeros([], jnp.complex64))
)
HUGE = (
    st.sampled_from([np.nan, np.inf, -np.inf, np.float16("nan"), jnp.float32("inf")])
    | st.integers(10**39, 10**400)
    | st.integers(10**39, 10**400).map(lambda n: -n)
    | st.floats(1e39, allow_infinity=False)
)


# Hypothesis draws literals of the code, too, among them some that make sense.
FLOATS = {
    *"defg",
    *("half", "single", "double", "longdouble", "float", "bfloat16"),
    *(f"float{bits}" for bits in (16, 32, 64, 128)),
}


def is_scope(thing):
    return isinstance(thing, str) and thing in ("element", "tensor")


NEGATIVE = st.floats(max_value=-1e-40) | st.integers(max_value=-1)
BOOLS = st.booleans() | st.sampled_from([np.True_, jnp.asarray(True)])
NONSENSE = {
    NUMBER: THING | HUGE | BOOLS | st.none(),
    POWER: THING | HUGE | BOOLS | st.none() | NEGATIVE | st.just(0),
    COUNT: THING | st.floats() | BOOLS | st.none() | st.integers(max_value=0),
    COUNT_OR_NONE: THING | st.floats() | BOOLS | st.integers(max_value=0),
    MEMORY: THING
    | HUGE.filter(lambda huge: huge != np.inf)
    | BOOLS
    | st.floats(max_value=1)
    | st.integers(max_value=1),
    AVERAGE: THING | HUGE | BOOLS | st.none() | NEGATIVE | st.floats(min_value=1),
    FRACTION: THING
    | HUGE
    | BOOLS
    | st.none()
    | NEGATIVE
    | st.just(0)
    | st.floats(min_value=1, exclude_min=True),
    KEY: THING
    | HUGE.filter(lambda huge: not isinstance(huge, int))
    | BOOLS
    | st.none()
    | st.just(jax.random.split(jax.random.key(0))),
    SWITCH: THING | HUGE | st.none(),
    FLAG: THING | HUGE | st.none() | st.integers() | st.just(np.True_),
    DTYPE: st.text().filter(lambda text: text not in FLOATS)
    | st.sampled_from([int, complex, "int8", jnp.bool_, jnp.float8_e5m2, object(), 3]),
    SCOPE: THING.filter(lambda thing: not is_scope(thing)) | HUGE | BOOLS | st.none(),
    PART: THING.filter(lambda thing: thing is not None) | HUGE | BOOLS | st.just(len),
}
AT_LEAST_0 = (
    *("threshold", "eps", "strength", "damping", "xi1", "xi2"),
    *("batch_size", "sigma", "weight_decay"),
)


@pytest.mark.parametrize("examples", [25, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("constructor", "name"), CASES, ids=[f"{c.__name__}-{name}" for c, name in CASES]
)
def test_nonsense_is_refused_by_name(constructor, name, examples):
    nonsense = NONSENSE[KINDS[name]]
    if name in AT_LEAST_0:
        nonsense |= NEGATIVE

    @hypothesis.settings(
        max_examples=examples, deadline=None, derandomize=True, database=None
    )
    @hypothesis.given(nonsense)
    def check(value):
        parameters = inspect.signature(constructor).parameters
        arguments = {key: RIGHT[key] for key in parameters if key in RIGHT}
        with pytest.raises((TypeError, ValueError)) as info:
            constructor(**arguments | {name: value})
        assert name in str(info.value)

    check()


@pytest.mark.parametrize("name", ["fisher", "anchor"])
@pytest.mark.parametrize("value", [None, "text", 3, {}, {"w": np.ones(2)}, np.ones(3)])
def test_a_tree_of_another_kind_is_refused_where_it_meets_the_parameters(name, value):
    trees = {"fisher": jnp.ones(2), "anchor": jnp.ones(2)} | {name: value}
    penalty = baselines.ewc_penalty(**trees, strength=1.0, learning_rate=0.1)
    with pytest.raises((TypeError, ValueError)):
        penalty.init(jnp.ones(2))


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "2", None, True, jnp.int32(2)])
@pytest.mark.parametrize("mean", [baselines.fisher_diagonal, baselines.mas_importance])
def test_batch_size_is_refused_by_name(mean, batch_size):
    with pytest.raises((TypeError, ValueError), match="batch_size"):
        mean(lambda w, x: w * x, jnp.ones([]), jnp.ones(3), batch_size=batch_size)


def test_what_is_right_is_accepted():
    for value in (
        0.1,
        1,
        np.float32(0.1),
        jnp.float32(0.1),
        np.array(2),
        lambda t: 0.1,
    ):
        for constructor, name in CASES:
            if KINDS[name] == NUMBER:
                parameters = inspect.signature(constructor).parameters
                arguments = {key: RIGHT[key] for key in parameters if key in RIGHT}
                constructor(**arguments | {name: value})
    for value in (None, 2, 1.5, np.inf, jnp.float32(2), jnp.int32(9), lambda t: 9.0):
        for constructor, name in CASES:
            if KINDS[name] == MEMORY:
                parameters = inspect.signature(constructor).parameters
                arguments = {key: RIGHT[key] for key in parameters if key in RIGHT}
                constructor(**arguments | {name: value})
    for value in ("float32", "f4", jnp.bfloat16, np.dtype("float16"), float):
        classp_jax.classp(0.1, accumulator_dtype=value)
