"""What can't be trained is refused by name, before anything is."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.methods.ewc import EWC
from examples.methods.replay import Replay
from examples.methods.synaptic_intelligence import SynapticIntelligence
from examples.runner import batches, rows, run, side_by_side
from examples.runner.data import Experiment, Split, Task
from examples.runner.method_checks import check_method, check_transitions
from examples.runner.plan import Method, Phase
from examples.runner.run import Runner
from examples.runner.trainers import Trainers
from tests.helpers import Network

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(40, 6)).astype(np.float32)
LABELS = RNG.integers(0, 3, 40).astype(np.int32)
GOOD = Split(INPUTS, LABELS)
HOLED = np.where(np.arange(240).reshape(40, 6) == 45, np.nan, INPUTS)


class Averaging(Network):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)


def sgd(task="a", epochs=1, **kwargs):
    return Phase({task: epochs}, "sgd", dict(learning_rate=0.1), **kwargs)


def experiment(b=GOOD, test=GOOD, **changed):
    tasks = {"a": Task(GOOD, GOOD), "b": Task(b, test)}
    return Experiment("", Network, lambda x: x, tasks, 8)._replace(**changed)


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch):
    monkeypatch.setattr(side_by_side, "train_steps", None)


OF_LABELS = "labels must be integers of shape (n,), a class each"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(labels=LABELS + 1), "labels must be 0 to 2"),
        (dict(labels=LABELS - 1), "has 3 outputs, but they are -1 to 1"),
        (dict(labels=LABELS.astype(np.float32)), f"{OF_LABELS}, got float32"),
        (dict(labels=LABELS[:, None]), "labels.ravel() may be what is meant"),
        (dict(labels=np.eye(3)[LABELS]), "labels.argmax(-1) may be what is meant"),
        (dict(labels=LABELS > 1), f"{OF_LABELS}, got bool"),
        (dict(labels=LABELS.astype(str)), f"{OF_LABELS}, got <U11"),
        (dict(labels=LABELS.tolist()), "labels must be a NumPy or JAX array, got list"),
        (dict(labels=LABELS[:20]), "as many inputs as labels, got inputs of shape"),
        (dict(inputs=INPUTS[:20]), "as many inputs as labels"),
        (dict(inputs=np.float32(1)), "must be a NumPy or JAX array, got float32"),
        (dict(inputs=INPUTS[:0], labels=LABELS[:0]), "an example at least, got none"),
        (
            dict(inputs=HOLED),
            "those of 1 of 40 examples aren't, the first of them exam",
        ),
        (dict(inputs=jnp.asarray(HOLED)), "must be finite"),
        (dict(inputs=INPUTS * np.float32(np.inf)), "those of 40 of 40 examples aren't"),
        (dict(inputs=np.full((40, 6), 1e300)), "inputs as float32 must be finite"),
        (dict(inputs=np.full((40, 6), 2**40)), "inputs as int32 must be within it"),
        (dict(inputs=INPUTS.astype(str)), "inputs must be numbers, got <U"),
        (dict(inputs=INPUTS[:, 0].astype([("x", "f4")])), "must be numbers, got [('x'"),
        (dict(inputs=np.ma.masked_less(INPUTS, 0)), "inputs are a masked array, whose"),
        (dict(labels=np.ma.masked_less(LABELS, 1)), "labels are a masked array, whose"),
        (dict(inputs=INPUTS[:, :5]), "float32 of shape (n, 5), but float32 of shape"),
        (dict(inputs=INPUTS[..., None]), "(n, 6, 1), but float32 of shape (n, 6) in"),
        (dict(inputs=INPUTS.astype(np.uint8)), "uint8 of shape (n, 6), but float32"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_wrong_data_are_named(changed, message, split, tmp_path):
    bad = GOOD._replace(**changed)
    of = experiment(bad) if split == "train" else experiment(test=bad)
    with pytest.raises((TypeError, ValueError)) as info:
        Runner(of, tmp_path)
    assert str(info.value).startswith(f"Task 'b', {split}: ")
    assert message in str(info.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(tasks={}), "a task at least"),
        (dict(tasks={"a": Task(GOOD), "b": Task(GOOD)}), "Task 'a' has no test split"),
        (dict(tasks={"a": Task(None, GOOD)}), "Task 'a' has no train split"),
        (dict(curve=("tests", 10)), "curve must be 'train' or 'test'"),
        (dict(curve=("test", 0)), "curve must be 'train' or 'test'"),
        (dict(batch_size=0), "batch_size must be an integer from 1 on, got 0"),
        (
            dict(tasks={"a": (GOOD, GOOD)}),
            "Task 'a' must be a Task of Splits, got (Spl",
        ),
        (
            dict(tasks={"a": Task((INPUTS, LABELS), GOOD)}),
            "'a', train: must be a Split, got",
        ),
        (dict(splits=("validation",)), "splits must be some of ('train', 'test'), got"),
        (dict(measurements=0), "measurements must be an integer from 1 on, got 0"),
        (dict(heads=(0, 1)), "each of the model's 3 outputs, got 2"),
        (dict(preprocess=lambda x: x[:, :5]), "The model can't take inputs float32"),
        (dict(make_model=Averaging), "it has norm.mean (BatchStat), norm.var (BatchS"),
        (dict(preprocess=lambda x: x[0]), "makes (3,)"),
        (dict(preprocess=lambda x: x * 1j), "must make real logits, got complex64"),
        (dict(tasks={1: Task(GOOD, GOOD)}), "name must be a string, got 1"),
    ],
)
def test_an_experiment_that_cannot_be_is_refused(changed, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        Runner(experiment(**changed), tmp_path)


@pytest.mark.parametrize(
    "labels", [LABELS.astype(np.uint8), LABELS.astype(np.int64), jnp.asarray(LABELS)]
)
def test_labels_of_any_integer_dtype_are_taken(labels, tmp_path):
    Runner(experiment(Split(INPUTS, labels)), tmp_path)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], "a seed at least"),
        (iter(()), "a seed at least"),
        ([0, 1, 0], "[0] are there more than once"),
        ([-1], "must be 0 or more, below 2**31, got [-1]"),
        ([2**31], "got [2147483648]"),
        ([0.5], "'float' object cannot be interpreted as an integer"),
    ],
)
def test_wrong_seeds_are_named(seeds, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        Runner(experiment(), tmp_path).run("", Method("", (sgd(),)), seeds)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (sgd("c"), "some of the tasks 'a', 'b', got 'c'"),
        (Phase({}, "sgd", dict(learning_rate=0.1)), "'a', 'b', got none"),
        (sgd(epochs=0), "epochs of 'a' must be an integer from 1 on, got 0"),
        (sgd(epochs=-1), "from 1 on, got -1"),
        (sgd(epochs=1.5), "from 1 on, got 1.5"),
        (sgd(epochs=True), "from 1 on, got True"),
        (Phase({"a": 1}, "sdg", {}), "There is no optimizer 'sdg' (close to it: sgd"),
        (Phase({"a": 1}, "sgd", {}), "missing a required argument: 'learning_rate'"),
        (
            Phase({"a": 1}, "sgd", dict(learning_rate=1, b1=1)),
            "argument 'b1'; it takes",
        ),
        (
            Phase({"a": 1}, "classp", dict(learning_rate=0.1, power=-1)),
            "power must be finite and above 0",
        ),
        (
            sgd(plugins=(Replay(0.1, 8),)),
            "must be below the 8 examples of a batch, got 8",
        ),
        (
            sgd(plugins=(Replay(0.1, 0),)),
            "in_batch must be an integer from 1 on, got 0",
        ),
        (
            sgd(plugins=(Replay(None, 2),)),
            "above 0 and at most 1, unless memory is given",
        ),
        (sgd(plugins=(Replay(1.5, 2),)), "got 1.5"),
        (
            sgd(plugins=(Replay(None, 2, 0),)),
            "memory must be an integer from 1 on, got 0",
        ),
        (sgd("a", plugins=(Replay(None, 2, 8),)), "The first task has none before it"),
        (sgd(plugins=(EWC(1.0, "example"),)), "'moment', 'batches', got 'example'"),
        (
            sgd(plugins=(EWC(1.0, examples=0),)),
            "examples must be an integer from 1 on, got 0",
        ),
        (
            sgd(plugins=(EWC(1.0), SynapticIntelligence(1.0))),
            "one penalty at most, got ewc and si",
        ),
        (sgd(plugins=(EWC(1.0, "steps"),)), "its optimizer, sgd, collects none"),
    ],
)
def test_a_phase_that_cannot_be_is_refused(phase, message, tmp_path):
    runner = Runner(experiment(), tmp_path)
    with pytest.raises((TypeError, ValueError)) as info:
        runner.run("", Method("Two", (sgd(), phase)), [0])
    assert message in str(info.value)
    assert str(info.value).startswith("'Two', phase 2: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Method("None", ()), "'None' must have a phase at least"),
        (Method("One", sgd()), "'One': phases must be a tuple of them, got one Phase"),
        (Method("", (sgd(),), ("validation",)), "some of ['test', 'train']"),
        (Method("", (sgd(),), ()), "splits must be some of"),
        (Method("", (sgd(),), "test"), "splits must be some of"),
        (Method("", (sgd(plugins=(EWC(1.0),)),)), "a phase before, got the first"),
    ],
)
def test_a_method_that_cannot_be_is_refused(method, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        Runner(experiment(), tmp_path).run("", method, [0])


def test_a_row_that_would_never_be_found_again_is_refused(tmp_path):
    """As no task measured has the split: each call would train it anew."""
    of = experiment(curve=("train", 20))
    of = of._replace(tasks=of.tasks | {"a": Task(GOOD)})
    with pytest.raises(ValueError, match=r"splits must be some of \['train'\]"):
        Runner(of, tmp_path).run("", Method("", (sgd(),)), [0])


def test_a_batch_larger_than_a_task_is_refused_before_the_first_phase(tmp_path):
    small = Split(INPUTS[:5], LABELS[:5])
    method = Method("", (sgd(), sgd("b")))
    with pytest.raises(ValueError, match="A batch of 8 examples.* drawn from 5"):
        Runner(experiment(small), tmp_path).run("", method, [0])


def test_a_batch_of_tasks_that_are_mixed_may_be_larger_than_one():
    for size, epochs in ((80, {"a": 2, "b": 2}), (120, {"a": 1, "b": 2})):
        mixed = Phase(epochs, "sgd", dict(learning_rate=0.1))
        tasks = batches.of_tasks({"a": 40, "b": 40})
        check_method(Method("", (mixed,)), experiment(batch_size=size), tasks)
        epochs = batches.of_phase(mixed, 0, 0, tasks, size)
        assert all(len(epoch) == 1 for epoch in epochs)
        larger = experiment(batch_size=size + 1)
        with pytest.raises(ValueError, match=f"can't be drawn from {size}"):
            check_method(Method("", (mixed,)), larger, tasks)
    with pytest.raises(ValueError, match="can't be drawn from 40"):
        check_method(Method("", (sgd(),)), larger, tasks)


def test_ewc_does_not_take_importances_for_fisher_information(tmp_path):
    phases = (sgd(plugins=(SynapticIntelligence(1.0),)), sgd("b", plugins=(EWC(1.0),)))
    with pytest.raises(ValueError, match="phase 2: ewc can't go on from si"):
        Runner(experiment(), tmp_path).run("", Method("", phases), [0])


def test_what_is_done_is_not_checked_again(tmp_path, monkeypatch):
    monkeypatch.undo()
    method, numpy_seed = Method("", (sgd(),)), np.int64(3)
    Runner(experiment(), tmp_path).run("", method, [numpy_seed])
    (row,) = rows.read(tmp_path / "rows.jsonl")
    assert row["seed"] == 3
    monkeypatch.setattr(run, "check_transitions", None)
    Runner(experiment(), tmp_path).run("", method, iter([3]))


def test_nothing_is_compiled_for_a_check(tmp_path):
    jax.clear_caches()
    of = experiment()
    Runner(of, tmp_path)
    before = len(jax.devices()[0].client.live_executables())
    phases = (sgd(), dataclasses.replace(sgd("b"), optimizer="classp"))
    with pytest.warns(UserWarning, match="the one before collected none"):
        check_transitions(Method("", phases), Trainers(of, None).of)
    assert len(jax.devices()[0].client.live_executables()) == before
