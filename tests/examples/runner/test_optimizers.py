"""A phase's optimizer: by name, of Optax, or a function of one's own."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import classp_jax
from examples.methods.classp import collecting_all, masked_sgd
from examples.methods.ewc import EWC
from examples.methods.synaptic_intelligence import SynapticIntelligence
from examples.runner import rows
from examples.runner.data import Experiment, Task
from examples.runner.optimizers import maker, name_of
from examples.runner.plan import Method, Phase, as_json, make_optimizer
from examples.runner.run import Runner
from examples.runner.trainer import Trainer
from tests.examples.helpers import random_split
from tests.helpers import Network

RATE = dict(learning_rate=0.01)


def clipped(learning_rate, power=1.0):
    classp = classp_jax.classp(learning_rate, power=power)
    return optax.chain(optax.clip(1.0), classp)


def on_a_plateau(learning_rate):
    return optax.chain(
        optax.sgd(learning_rate), optax.contrib.reduce_on_plateau(patience=1)
    )


def nothing(learning_rate):
    return learning_rate


def content(optimizer, hyperparameters=RATE):
    (phase,) = as_json((Phase({"a": 1}, optimizer, hyperparameters),))
    return phase["optimizer"], phase["hyperparameters"]


def test_an_optimizer_of_optax_is_known_by_its_name():
    name, hyperparameters = content("adamw", dict(learning_rate=0.01, b1=0.8))
    assert name == "adamw"
    assert hyperparameters["b1"] == 0.8 and hyperparameters["weight_decay"] == 1e-4
    for given in (optax.adamw, functools.partial(optax.adamw, b1=0.8)):
        assert content(given)[0] == "adamw"
    assert content(functools.partial(optax.adamw, b1=0.8))[1] == hyperparameters
    assert content(optax.contrib.prodigy, {})[0] == "prodigy"
    assert content(optax.nadamw) == content("nadamw")
    for make in (classp_jax.classp, optax.sgd, collecting_all, masked_sgd):
        assert name_of(make) == make.__name__ == name_of(maker(make.__name__))


def test_a_function_of_ones_own_is_known_by_its_module_and_name():
    name, hyperparameters = content(clipped)
    assert name == f"{__name__}.clipped"
    assert hyperparameters == {"learning_rate": 0.01, "power": 1.0}
    assert content(functools.partial(clipped, power=2))[1]["power"] == 2
    injected = optax.inject_hyperparams(optax.adam)
    assert content(injected)[0] != content(optax.adam)[0] == "adam"

    def within(learning_rate):
        return optax.sgd(learning_rate)

    assert content(within)[0].endswith("<locals>.within")


def test_what_json_cannot_hold_is_written_as_it_can_or_left_out():
    given = dict(learning_rate=np.float32(0.5), mu_dtype=jnp.bfloat16)
    _, hyperparameters = content("adam", given)
    assert hyperparameters["learning_rate"] == 0.5
    assert hyperparameters["mu_dtype"] == "bfloat16"
    assert content("adafactor", {})[1]["dtype_momentum"] == "float32"
    assert (
        "linesearch" not in content("lbfgs", {})[1]
    )  # A default, and the same always.


def capturing(b1):
    def adam(learning_rate):
        return optax.adam(learning_rate, b1)

    return adam


@pytest.mark.parametrize(
    ("optimizer", "hyperparameters", "error", "message"),
    [
        ("adamm", RATE, ValueError, "'adamm' .close to it: .*adam.* Known are adagrad"),
        ("frobnicate", RATE, ValueError, "classp_released.* of Optax .*lion.*rmsprop"),
        ("schedule_free_sgd", RATE, ValueError, "no optimizer"),
        ("scale_by_adam", RATE, ValueError, "no optimizer"),
        ("_classp", RATE, ValueError, "no optimizer"),
        ("adam", dict(lr=0.1), TypeError, "adam: .*; it takes learning_rate, b1, b2"),
        (
            clipped,
            dict(RATE, p=2),
            TypeError,
            "clipped: .* it takes learning_rate, pow",
        ),
        (
            optax.adam(0.1),
            {},
            TypeError,
            "a name or a function that makes one, such as",
        ),
        (None, RATE, TypeError, "Got None"),
        (
            lambda learning_rate: optax.sgd(0.1),
            RATE,
            ValueError,
            "has none.* with a na",
        ),
        (capturing(0.5), RATE, ValueError, "depends on b1 around it.*hyperparameter"),
        (functools.partial(optax.adam, 0.1), {}, ValueError, "has none"),
        ("sgd", dict(learning_rate=lambda t: t), TypeError, "can't hold learning_rate"),
        # Equal to none, so that its row would never be found again.
        ("sgd", dict(learning_rate=np.nan), TypeError, "can't hold learning_rate=nan"),
    ],
)
def test_what_has_no_name_or_no_meaning_is_refused(
    optimizer, hyperparameters, error, message
):
    with pytest.raises(error, match=message):
        content(optimizer, hyperparameters)


@pytest.mark.parametrize(
    ("phase", "error", "message"),
    [
        (
            Phase({}, nothing, RATE),
            TypeError,
            "nothing must make an Optax transformati",
        ),
        (Phase({}, "lbfgs", {}, (EWC(1.0),)), ValueError, "lbfgs has no learning_rate"),
        (
            Phase({}, "polyak_sgd", {}, plugins=(SynapticIntelligence(1.0),)),
            ValueError,
            "polyak_sgd has no learning_rate",
        ),
    ],
)
def test_what_makes_no_optimizer_is_refused(phase, error, message):
    with pytest.raises(error, match=message):
        make_optimizer(phase, {})


def experiment():
    task = Task(random_split(16, 0), random_split(8, 1))
    return Experiment("o", Network, lambda x: x / 255 - 0.5, {"a": task, "b": task}, 8)


@pytest.mark.parametrize(
    ("optimizer", "hyperparameters"),
    [
        ("rmsprop", RATE),
        (optax.lion, RATE),
        ("polyak_sgd", {}),  # It needs the loss,
        (on_a_plateau, RATE),
        ("lbfgs", {}),  # and it the loss as a function.
        ("prodigy", {}),  # Its state has a grad_sum that is none of CLASSP's.
        ("noisy_sgd", dict(RATE, seed=0)),  # Its state has a random key.
        (clipped, RATE),
    ],
)
def test_any_optimizer_trains(optimizer, hyperparameters, tmp_path):
    phases = tuple(Phase({t: 2}, optimizer, hyperparameters) for t in "ab")
    method = Method("", phases)
    Runner(experiment(), tmp_path).run("m", method, [0])
    (row,) = rows.select(
        rows.read(tmp_path / "rows.jsonl"), method, experiment().settings
    )
    assert all(result["finite"] for result in row["results"])
    assert row["results"][-1]["last_loss"] < 3
    (file,) = tmp_path.glob("checkpoints/*.npz")
    assert file.name.startswith(name_of(optimizer).rpartition(".")[2] + "-")


def test_an_optimizer_gets_the_loss_as_a_value_and_as_a_function():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra, same=extra["value_fn"](params) == extra["value"])
        chex.assert_trees_all_equal(extra["grad"], updates)
        return updates, state

    def init(params):
        return optax.EmptyState()

    optimizer = optax.GradientTransformationExtraArgs(init, update)
    trainer = Trainer(Network, optimizer, lambda x: x / 255 - 0.5)
    data = jax.device_put(random_split(16, 0))
    trainer.train_step(trainer.init(0), *data, np.arange(8))
    assert seen["same"] and np.shape(seen["value"]) == ()
