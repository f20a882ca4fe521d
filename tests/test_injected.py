"""What is set in a state at a task boundary, and what isn't."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

import classp_jax
from classp_jax import baselines, set_hyperparameters
from classp_jax.baselines import set_penalty

pytestmark = pytest.mark.usefixtures("few_compiled_functions")

NAMES = ("learning_rate", "threshold", "eps", "apply_decay", "hyperparams", "count")
PARAMS = {"lif": {name: jnp.array([1.0, -2.0]) for name in NAMES}}
GRADS = {"lif": {name: jnp.array([0.1, 0.3]) for name in NAMES}}


def injected(**hyperparameters):
    make = optax.inject_hyperparams(
        classp_jax.classp, static_args="power", hyperparam_dtype=jnp.float32
    )
    return make(**{"learning_rate": 0.2, "apply_decay": 0.0} | hyperparameters)


def values_of(opt_state):
    """Of each injected hyperparameter all values, by name."""

    def is_injected(node):
        return isinstance(node, optax.InjectStatefulHyperparamsState)

    found = {}
    for node in jax.tree.leaves(opt_state, is_leaf=is_injected):
        if is_injected(node):
            for name, leaf in node.hyperparams.items():
                found.setdefault(name, []).append(np.asarray(leaf).tolist())
            for name, leaves in values_of(node.inner_state).items():
                found.setdefault(name, []).extend(leaves)
    return found


WRAPPERS = {
    "alone": lambda solver: solver,
    "chain": lambda solver: optax.chain(optax.clip_by_global_norm(1.0), solver),
    "masked": lambda solver: optax.masked(solver, True),
    "partition": lambda solver: optax.partition({"all": solver}, "all"),
    "MultiSteps": lambda solver: optax.MultiSteps(solver, 2).gradient_transformation(),
    "apply_if_finite": lambda solver: optax.apply_if_finite(solver, 3),
    "conditionally": lambda solver: optax.conditionally_transform(
        solver, lambda step: step >= 0
    ),
    "nested": lambda solver: optax.chain(optax.trace(0.9), optax.chain(solver)),
    "gate": lambda solver: classp_jax.decay_gate(solver, True),
    "si": lambda solver: baselines.synaptic_intelligence(solver, 1.0),
    "injected": lambda solver: optax.inject_hyperparams(
        lambda max_norm: optax.chain(optax.clip_by_global_norm(max_norm), solver)
    )(max_norm=1.0),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_hyperparameters_are_set_and_no_parameters_of_their_names(wrap):
    solver = wrap(injected())
    update = jax.jit(solver.update)
    _, before = update(GRADS, solver.init(PARAMS), PARAMS)
    after = set_hyperparameters(
        before, learning_rate=0.5, threshold=0.04, eps=0.1, apply_decay=True
    )
    assert values_of(after) | {"max_norm": None} == {
        "learning_rate": [0.5],
        "threshold": [float(np.float32(0.04))],
        "eps": [float(np.float32(0.1))],
        "apply_decay": [1.0],
        "max_norm": None,
    }
    back = set_hyperparameters(
        after, learning_rate=0.2, threshold=0.0, eps=1e-5, apply_decay=False
    )
    chex.assert_trees_all_equal(back, before)
    update(GRADS, after, PARAMS)
    assert update._cache_size() == 1


def test_the_next_step_is_that_of_a_parameter_of_another_name():
    steps = []
    for name in ("level", *NAMES):
        params, grads = {name: jnp.ones(3)}, {name: jnp.array([0.1, 0.2, 0.3])}
        solver = injected(threshold=0.0, relative=True)
        opt_state = solver.init(params)
        for _ in range(5):
            _, opt_state = solver.update(grads, opt_state, params)
        opt_state = set_hyperparameters(opt_state, threshold=0.5, apply_decay=1.0)
        updates, _ = solver.update(grads, opt_state, params)
        steps.append(updates[name])
    # -0.2 g / (1e-5 + 6 g) where g² is above half the mean.
    chex.assert_trees_all_close(steps[0], jnp.array([0, -1, -1]) / 30, rtol=1e-4)
    chex.assert_trees_all_equal(*steps)


def test_every_group_is_set_or_one():
    solver = optax.partition(
        {"kernel": injected(), "bias": optax.inject_hyperparams(optax.sgd)(0.3)},
        {"kernel": "kernel", "bias": "bias"},
    )
    before = solver.init({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)})
    after = set_hyperparameters(before, learning_rate=0.5, threshold=1.0)
    assert values_of(after)["learning_rate"] == [0.5, 0.5]
    assert values_of(after)["threshold"] == [1.0]
    of_bias = set_hyperparameters(before.inner_states["bias"], learning_rate=0.7)
    groups = before._replace(inner_states=before.inner_states | {"bias": of_bias})
    assert sorted(values_of(groups)["learning_rate"]) == pytest.approx([0.2, 0.7])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
    "value",
    [
        1,
        True,
        1.0,
        np.float64(1),
        np.int8(1),
        np.bool_(1),
        jnp.bfloat16(1),
        np.ones(()),
    ],
    ids=repr,
)
def test_what_is_set_keeps_its_dtype(dtype, value):
    make = optax.inject_hyperparams(classp_jax.classp, static_args="power")
    solver, params = make(0.1, eps=0.1, apply_decay=0.0), jnp.ones(2, dtype)
    before = solver.init(params)
    after = set_hyperparameters(before, apply_decay=value, learning_rate=value)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    assert after.hyperparams["apply_decay"] == after.hyperparams["learning_rate"] == 1
    weak = [
        {name: x.weak_type for name, x in state.hyperparams.items()}
        for state in (before, after)
    ]
    assert weak[0] == weak[1]


@pytest.mark.parametrize("start", [0, 0.0, jnp.int32(0), jnp.asarray(False), 0.5])
def test_nothing_compiles_again_whatever_was_injected(start):
    make = optax.inject_hyperparams(classp_jax.classp, static_args="power")
    solver, params = make(0.1, apply_decay=start), jnp.ones(2)
    update = jax.jit(lambda s: solver.update(params, s, params))
    _, opt_state = update(solver.init(params))
    for value in (True, 0, 1.0):
        _, opt_state = update(set_hyperparameters(opt_state, apply_decay=value))
        assert opt_state.hyperparams["apply_decay"] == value
    assert update._cache_size() == 1


def test_inside_a_compiled_step():
    solver, params = injected(), jnp.ones(2)

    @jax.jit
    def step(opt_state, rate, is_second_task):
        opt_state = set_hyperparameters(
            opt_state, learning_rate=rate, apply_decay=is_second_task
        )
        return solver.update(params, opt_state, params)

    updates, opt_state = step(solver.init(params), 0.5, False)
    chex.assert_trees_all_equal(updates, -0.5 * params)
    updates, opt_state = step(opt_state, 0.5, True)
    chex.assert_trees_all_close(updates, -0.25 * params, rtol=1e-4)
    assert step._cache_size() == 1

    def scanned(opt_state, rate):
        opt_state = set_hyperparameters(opt_state, learning_rate=rate)
        updates, opt_state = solver.update(params, opt_state, params)
        return opt_state, updates

    _, updates = jax.lax.scan(scanned, solver.init(params), jnp.array([0.1, 0.2]))
    chex.assert_trees_all_close(updates[:, 0], -jnp.array([0.1, 0.2]))


def test_seeds_side_by_side_share_a_value_or_have_their_own():
    solver, params = injected(), jnp.ones((3, 2))
    update = jax.jit(jax.vmap(lambda g, s: solver.update(g, s, g)))
    _, opt_state = update(params, jax.vmap(solver.init)(params))
    shared = set_hyperparameters(opt_state, learning_rate=0.5)
    assert shared.hyperparams["learning_rate"].tolist() == [0.5, 0.5, 0.5]
    own = set_hyperparameters(opt_state, learning_rate=np.array([0.0, 0.5, 1.0]))
    updates, _ = update(params, own)
    assert updates[:, 0].tolist() == [0.0, -0.5, -1.0]
    update(params, shared)
    assert update._cache_size() == 1
    with pytest.raises(ValueError, match=r"or of shape \(3,\), got shape \(2,\)"):
        set_hyperparameters(opt_state, learning_rate=np.ones(2))
    each = jax.vmap(lambda s, rate: set_hyperparameters(s, learning_rate=rate))
    chex.assert_trees_all_equal(each(opt_state, jnp.array([0.0, 0.5, 1.0])), own)


def test_it_stays_where_it_was():
    mesh = jax.make_mesh((8,), ("data",))
    params = jax.device_put(jnp.ones(8), NamedSharding(mesh, PartitionSpec("data")))
    solver = injected()
    update = jax.jit(lambda s: solver.update(params, s, params))
    _, opt_state = update(solver.init(params))
    _, opt_state = update(opt_state)
    compiled = update._cache_size()
    after = set_hyperparameters(opt_state, learning_rate=0.5, apply_decay=1)
    chex.assert_trees_all_equal_shapes_and_dtypes(opt_state, after)
    for name, leaf in after.hyperparams.items():
        assert leaf.sharding == opt_state.hyperparams[name].sharding
    update(after)
    assert update._cache_size() == compiled
    elsewhere = jax.device_put(opt_state, jax.devices()[3])
    after = set_hyperparameters(elsewhere, learning_rate=jnp.float32(0.5))
    assert after.hyperparams["learning_rate"].devices() == {jax.devices()[3]}
    for memory in jax.devices()[0].addressable_memories():
        place = SingleDeviceSharding(jax.devices()[0], memory_kind=memory.kind)
        offloaded = jax.device_put(solver.init(jnp.ones(2)), place)
        after = set_hyperparameters(offloaded, learning_rate=0.5)
        assert after.hyperparams["learning_rate"].sharding == place
    weak = jax.device_put(jnp.asarray(1), jax.devices()[3])
    opt_state.hyperparams["learning_rate"] = weak
    after = set_hyperparameters(opt_state, learning_rate=2)
    assert after.hyperparams["learning_rate"].devices() == {jax.devices()[3]}
    assert after.hyperparams["learning_rate"].aval == weak.aval
    # One value per seed, and the seeds cut over the devices.
    seeds = jax.vmap(solver.init)(jnp.ones((8, 2)))
    seeds = jax.device_put(seeds, NamedSharding(mesh, PartitionSpec("data")))
    for value in (0.5, np.arange(8.0)):
        after = set_hyperparameters(seeds, learning_rate=value)
        chex.assert_trees_all_equal_shapes_and_dtypes(seeds, after)
        assert after.hyperparams["learning_rate"].sharding == seeds.count.sharding


def test_it_needs_no_values_that_were_donated():
    solver, params = injected(), jnp.ones(2)
    opt_state = solver.init(params)
    deleted = opt_state.hyperparams["learning_rate"]
    deleted.delete()
    after = set_hyperparameters(opt_state, learning_rate=0.5)
    assert after.hyperparams["learning_rate"] == 0.5


def test_nnx_optimizer():
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(injected()), wrt=nnx.Param)
    traces = []

    @nnx.jit
    def step(model, optimizer):
        traces.append(None)
        grads = nnx.grad(lambda model: jnp.sum(model(jnp.ones(3))))(model)
        return optimizer.update(model, grads)

    step(model, optimizer)
    optimizer.opt_state = set_hyperparameters(optimizer.opt_state, learning_rate=0.5)
    assert step(model, optimizer)["bias"][...] == -0.5
    graph, state = nnx.split(optimizer)
    optimizer = nnx.merge(graph, set_hyperparameters(state, learning_rate=0.25))
    assert step(model, optimizer)["bias"][...] == -0.25

    @nnx.jit
    def inside(optimizer):
        optimizer.opt_state = set_hyperparameters(
            optimizer.opt_state, learning_rate=0.75
        )

    inside(optimizer)
    assert step(model, optimizer)["bias"][...] == -0.75
    assert len(traces) == 1


def test_linen_train_state():
    state = TrainState.create(apply_fn=None, params=PARAMS, tx=injected())
    step = jax.jit(lambda state: state.apply_gradients(grads=GRADS))
    state = step(state.replace(step=jnp.int32(0)))  # A Python number at first.
    opt_state = set_hyperparameters(state.opt_state, learning_rate=0.5)
    before, state = state.params, step(state.replace(opt_state=opt_state))
    chex.assert_trees_all_close(
        state.params, jax.tree.map(lambda p, g: p - 0.5 * g, before, GRADS), rtol=1e-6
    )
    assert step._cache_size() == 1
    whole = set_hyperparameters(state, learning_rate=0.25)
    chex.assert_trees_all_equal(whole.params, state.params)
    assert whole.opt_state.hyperparams["learning_rate"] == 0.25


def by_schedule(**schedules):
    return injected(**schedules).init(PARAMS)


def of_int():
    make = optax.inject_hyperparams(classp_jax.classp, static_args="power")
    return make(1, apply_decay=jnp.asarray(False)).init(PARAMS)


def of_float16():
    make = optax.inject_hyperparams(classp_jax.classp, static_args="power")
    return make(0.1).init(jnp.ones(2, jnp.float16))


@pytest.mark.parametrize(
    ("make_state", "values", "error", "message"),
    [
        (by_schedule, dict(treshold=1.0), ValueError, "treshold: no .* threshold"),
        (by_schedule, dict(power=2.0), ValueError, "power: no .* static_args fixed"),
        (by_schedule, dict(relative=True), ValueError, "relative: .* Python bools"),
        (by_schedule, dict(a=1, eps=1, b=2), ValueError, "a, b: no injected"),
        (by_schedule, dict(eps=np.nan), ValueError, "eps must be finite, got nan"),
        (by_schedule, dict(eps=-jnp.inf), ValueError, "eps must be finite"),
        (by_schedule, dict(eps=1e39), ValueError, "eps is kept as float32"),
        (by_schedule, dict(eps=1e-50), ValueError, "eps is kept as float32"),
        (by_schedule, dict(eps=10**400), TypeError, "eps must be a number"),
        (
            by_schedule,
            dict(eps=[0.1]),
            ValueError,
            r"eps must be a scalar, got.*\(1,\)",
        ),
        (by_schedule, dict(eps=jnp.ones(2)), ValueError, "eps must be a scalar"),
        (by_schedule, dict(eps=None), TypeError, "eps must be a number, got"),
        (by_schedule, dict(eps="0.1"), TypeError, "eps must be a number, got"),
        (by_schedule, dict(eps=1j), TypeError, "eps must be a number, got"),
        (by_schedule, dict(eps=lambda step: 0.1), TypeError, "eps must be a number"),
        (of_int, dict(learning_rate=0.5), ValueError, "kept as int32, .* hold 0.5"),
        (of_int, dict(learning_rate=2**40), ValueError, "learning_rate is kept as int"),
        (of_int, dict(apply_decay=0.5), ValueError, "apply_decay is kept as bool"),
        (of_float16, dict(eps=1e5), ValueError, "eps is kept as float16"),
        (of_float16, dict(eps=1e-9), ValueError, "hyperparam_dtype=jnp.float32"),
    ],
)
def test_what_cannot_be_set_is_named(make_state, values, error, message):
    with pytest.raises(error, match=message):
        set_hyperparameters(make_state(), **values)


@pytest.mark.parametrize(
    "schedules",
    [
        dict(threshold=lambda step: 0.0),
        dict(threshold=optax.schedules.WrappedSchedule(lambda step: 0.0)),
    ],
)
def test_what_a_schedule_determines_is_refused(schedules):
    opt_state = by_schedule(**schedules)
    with pytest.raises(ValueError, match="threshold is determined by a schedule"):
        set_hyperparameters(opt_state, threshold=1.0)
    set_hyperparameters(opt_state, eps=1.0)


def test_where_nothing_is_injected_it_says_so():
    for opt_state in (classp_jax.classp(0.1).init(PARAMS), (), None, PARAMS):
        with pytest.raises(ValueError, match="Nothing in this optimizer state"):
            set_hyperparameters(opt_state, threshold=1.0)
    with pytest.raises(ValueError, match="learning_rate is kept as int32"):
        jax.jit(lambda s, rate: set_hyperparameters(s, learning_rate=rate))(
            of_int(), 0.5
        )


WEIGHTS = {"fisher": jnp.array([1.0, 2.0]), "anchor": jnp.array([3.0])}
FISHER = {"fisher": jnp.array([0.5, 0.0]), "anchor": jnp.array([4.0])}
ANCHOR = {"fisher": jnp.array([-1.0, 0.0]), "anchor": jnp.array([7.0])}
ZEROS = jax.tree.map(jnp.zeros_like, WEIGHTS)


class TestPenalty:
    def penalty(self):
        return baselines.ewc_penalty(ZEROS, WEIGHTS, 2.0, learning_rate=0.0)

    @pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
    def test_it_is_set_wherever_it_stands_and_nothing_else(self, wrap):
        def is_penalty(node):
            return isinstance(node, baselines.EwcPenaltyState)

        opt_state = wrap(self.penalty()).init(WEIGHTS)
        after = set_penalty(opt_state, FISHER, ANCHOR)
        *_, state = filter(is_penalty, jax.tree.leaves(after, is_leaf=is_penalty))
        chex.assert_trees_all_equal((state.fisher, state.anchor), (FISHER, ANCHOR))
        back = set_penalty(after, ZEROS, WEIGHTS)
        chex.assert_trees_all_equal(back, opt_state)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, opt_state)

    def test_the_next_step_is_drawn_to_it(self):
        solver = optax.chain(self.penalty(), classp_jax.classp(1.0, apply_decay=False))
        update = jax.jit(solver.update)
        updates, opt_state = update(ZEROS, solver.init(WEIGHTS), WEIGHTS)
        assert not any(map(jnp.any, jax.tree.leaves(updates)))
        sums = optax.tree.get(opt_state, "grad_sum")
        opt_state = set_penalty(opt_state, FISHER, ANCHOR)
        chex.assert_trees_all_equal(optax.tree.get(opt_state, "grad_sum"), sums)
        updates, _ = update(ZEROS, opt_state, WEIGHTS)
        expected = {"fisher": jnp.array([-2.0, 0.0]), "anchor": jnp.array([32.0])}
        chex.assert_trees_all_close(updates, expected)
        assert update._cache_size() == 1

    def test_the_anchor_is_a_copy(self):
        params = jax.tree.map(jnp.copy, WEIGHTS)
        opt_state = set_penalty(self.penalty().init(params), FISHER, params)
        jax.tree.map(lambda p: p.delete(), params)
        chex.assert_trees_all_equal(opt_state.anchor, WEIGHTS)

    def test_groups_take_their_part_of_whole_trees(self):
        solver = optax.partition(
            {"ewc": self.penalty(), "rest": optax.sgd(0.1)},
            {"fisher": "ewc", "anchor": "rest"},
        )
        opt_state = set_penalty(solver.init(WEIGHTS), FISHER, ANCHOR).inner_states[
            "ewc"
        ]
        assert opt_state.inner_state.fisher["fisher"].tolist() == [0.5, 0.0]
        assert opt_state.inner_state.anchor["fisher"].tolist() == [-1.0, 0.0]

    def test_synaptic_intelligence_keeps_its_own(self):
        solver = baselines.synaptic_intelligence(
            optax.chain(self.penalty(), optax.sgd(0.1)), 1.0
        )
        before = solver.init(WEIGHTS)
        after = set_penalty(before, FISHER, ANCHOR)
        chex.assert_trees_all_equal(after.penalty, before.penalty)
        chex.assert_trees_all_equal(after.inner_state[0].fisher, FISHER)
        alone = baselines.synaptic_intelligence(optax.sgd(0.1), 1.0)
        with pytest.raises(ValueError, match="no EwcPenaltyState"):
            set_penalty(alone.init(WEIGHTS), FISHER, ANCHOR)

    def test_it_keeps_dtypes_and_places(self):
        mesh = jax.make_mesh((8,), ("data",))
        cut = NamedSharding(mesh, PartitionSpec("data"))
        params = jax.device_put(jnp.ones(8, jnp.bfloat16), cut)
        penalty = baselines.ewc_penalty(jnp.ones(8), params, 1.0, 0.1)
        update = jax.jit(lambda s: penalty.update(params, s, params)[1])
        before = update(penalty.init(params))
        after = set_penalty(before, np.full(8, 2.0), jnp.full(8, 3.0))
        chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
        assert after.fisher.sharding == after.anchor.sharding == cut
        update(after)
        assert update._cache_size() == 1

    def test_nnx_optimizer(self):
        model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
        params = nnx.state(model, nnx.Param)
        zeros = jax.tree.map(jnp.zeros_like, params)
        solver = optax.chain(
            baselines.ewc_penalty(zeros, params, 1.0, 0.0), optax.sgd(1.0)
        )
        optimizer = nnx.Optimizer(model, solver, wrt=nnx.Param)
        ones = jax.tree.map(jnp.ones_like, params)
        twos = jax.tree.map(lambda p: jnp.full_like(p, 2), params)
        optimizer.opt_state = set_penalty(optimizer.opt_state, ones, twos)
        optimizer.update(model, zeros)
        chex.assert_trees_all_close(model.kernel[...], jnp.full((2, 1), 2.0))

    @pytest.mark.parametrize(
        ("fisher", "anchor", "message"),
        [
            (FISHER, {"fisher": jnp.ones(2)}, "tensor of anchor"),
            (FISHER | {"fisher": jnp.ones(3)}, ANCHOR, "fisher must be shaped like"),
            (FISHER | {"anchor": jnp.array([-1.0])}, ANCHOR, "at least 0; anchor"),
            (FISHER | {"anchor": jnp.array([jnp.nan])}, ANCHOR, "finite"),
        ],
    )
    def test_what_does_not_fit_is_named(self, fisher, anchor, message):
        with pytest.raises(ValueError, match=message):
            set_penalty(self.penalty().init(WEIGHTS), fisher, anchor)
