"""Examples that are read in training: the same rows as from memory, a few at a time."""

import dataclasses
import threading

import numpy as np
import pytest

from examples.methods.ewc import EWC
from examples.methods.gpm import GPM
from examples.methods.owm import OWM
from examples.methods.replay import Replay
from examples.runner import batches, side_by_side, sources
from examples.runner.checkpoints import Saving
from examples.runner.data import Split, Task
from examples.runner.plan import Method, Phase
from examples.runner.run import Runner
from examples.runner.stored import Stored, apply, concatenated, take
from tests.examples.helpers import CLASSP, phase, random_split, read, without_times

SGD = dict(learning_rate=0.1)
METHODS = {
    "classp": CLASSP,
    "all at once": (Phase({"z": 2, "b": 2}, "sgd", SGD),),
    "in one epoch": (Phase({"z": 1, "b": 2}, "sgd", SGD),),
    "replay": (phase("z"), phase("b", plugins=(Replay(None, 3, memory=10),))),
    "ewc": (phase("z"), phase("b", plugins=(EWC(10.0, examples=20),))),
    "gpm": (phase("z"), phase("b", plugins=(GPM(0.9, 0.9, samples=20),))),
    "owm": (phase("z"), phase("b", plugins=(OWM(0.1, 3),))),
    "stops": (dataclasses.replace(phase("z", epochs=40), stop_loss=1.0),),
}


class Disk:
    """Keeps examples, and counts those that were read."""

    def __init__(self, inputs):
        self.inputs, self.count, self._lock = inputs, 0, threading.Lock()

    def read(self, which):
        with self._lock:
            self.count += len(which)
        return self.inputs[which]


def stored(split):
    disk = Disk(split.inputs)
    return disk, Split(Stored(disk.read, *_form(split.inputs)), split.labels)


def _form(inputs):
    return len(inputs), inputs.shape[1:]


def from_disk(experiment):
    tasks = {
        name: Task(*(stored(split)[1] for split in task))
        for name, task in experiment.tasks.items()
    }
    return experiment._replace(tasks=tasks)


def of_runs(folders):
    return [[without_times(row) for row in read(folder)] for folder in folders]


def method(name):
    phases = METHODS[name]
    return phases if isinstance(phases, Method) else Method(name, phases)


@pytest.mark.usefixtures("density_is_measured")
@pytest.mark.parametrize(
    ("name", "seeds"), [*((name, 1) for name in METHODS), ("classp", 2), ("stops", 2)]
)
def test_the_rows_are_those_of_examples_in_memory(
    experiment, tmp_path, monkeypatch, name, seeds
):
    # Blocks of two calls, the second of fewer steps, and a last batch of fewer images.
    monkeypatch.setattr(batches, "BLOCK", 4)
    monkeypatch.setattr(sources, "STEPS", 3)
    experiment = experiment._replace(batch_size=9)
    folders = [tmp_path / "memory", tmp_path / "disk"]
    for of, folder in zip((experiment, from_disk(experiment)), folders, strict=True):
        Runner(of, folder, seeds).run(name, method(name), range(seeds))
    memory, disk = of_runs(folders)
    assert len(memory) == seeds
    assert disk == memory


def test_evaluation_reads_a_part_at_a_time(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr("examples.runner.evaluation._PART", 100)  # Two batches.
    largest = []
    monkeypatch.setattr(
        Disk, "read", lambda disk, i: largest.append(len(i)) or disk.inputs[i]
    )
    # The last part has a batch and what is left over.
    tasks = {"b": Task(random_split(273, 0), random_split(100, 1))}
    of = experiment._replace(tasks=tasks, curve=("test", 7))
    folders = [tmp_path / "memory", tmp_path / "disk"]
    both = Method("", (phase("b"),), ("train", "test"))
    for of_run, folder in zip((of, from_disk(of)), folders, strict=True):
        Runner(of_run, folder).run("", both, [0])
    memory, disk = of_runs(folders)
    assert disk == memory
    assert max(largest) == 100


def test_no_more_than_a_few_batches_are_in_memory(experiment, tmp_path, monkeypatch):
    disk, train = stored(random_split(4000, 0))
    trained, ahead = [0], []
    original = side_by_side.train_read

    def counted(trainer, states, read, steps):
        ahead.append(disk.count - 8 * trained[0])
        trained[0] += steps
        return original(trainer, states, read, steps)

    monkeypatch.setattr(side_by_side, "train_read", counted)
    tasks = {"z": Task(train, random_split(20, 1))}
    of = experiment._replace(tasks=tasks, splits=("test",))
    Runner(of, tmp_path).run("", Method("", (phase("z", epochs=1),)), [0])
    # 500 batches in four blocks; before each, density is measured on the first of them.
    assert trained == [500]
    assert disk.count == 8 * (500 + 4)
    most = sources.AHEAD + sources.STEPS + 4
    assert 0 < max(ahead) <= 8 * most


def test_a_run_that_is_stopped_goes_on_where_it_was(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK", 2)
    monkeypatch.setattr(sources, "STEPS", 1)
    expected, folder = tmp_path / "whole", tmp_path / "stopped"
    of = from_disk(experiment)
    Runner(of, expected).run("", CLASSP, [0])
    original, calls = side_by_side.train_read, []

    def stopping(*arguments):
        calls.append(None)
        if len(calls) == 17:  # In the second phase.
            raise KeyboardInterrupt
        return original(*arguments)

    def runner(of):
        return Runner(of, folder, saving=Saving(folder / "checkpoints", every=2))

    monkeypatch.setattr(side_by_side, "train_read", stopping)
    with pytest.raises(KeyboardInterrupt):
        runner(of).run("", CLASSP, [0])
    runner(of).run("", CLASSP, [0])
    assert len(calls) == 2 * (5 + 6) + 1  # Those before the stop aren't made again.
    whole, stopped = of_runs([expected, folder])
    assert stopped == whole


def test_its_threads_end_with_the_phase(experiment, tmp_path):
    Runner(from_disk(experiment), tmp_path).run("", CLASSP, [0])
    names = [thread.name for thread in threading.enumerate() if thread.is_alive()]
    for thread in threading.enumerate():
        if thread.name.startswith("grain"):
            thread.join(10)
            assert not thread.is_alive(), names


def test_what_cannot_be_read_is_raised_in_training(experiment, tmp_path):
    def read(which):
        raise OSError(f"no example {which[0]}")

    broken = Split(Stored(read, 40, (6,)), np.zeros(40, np.int32))
    of = experiment._replace(tasks={"z": Task(broken, random_split(20, 1))})
    of = of._replace(splits=("test",))
    with pytest.raises(OSError, match="no example"):
        Runner(of, tmp_path).run("", Method("", (phase("z"),)), [0])


def test_only_stored_integers_are_taken(experiment, tmp_path):
    train = Split(Stored(None, 40, (6,), np.float32), np.zeros(40, np.int32))
    of = experiment._replace(tasks={"z": Task(train, random_split(20, 1))})
    with pytest.raises(ValueError, match="must be integers of 32 bits at most"):
        Runner(of, tmp_path)


def test_what_is_indexed_is_read_and_nothing_else():
    inputs = np.arange(60, dtype=np.uint8).reshape(20, 3)
    disk = Disk(inputs)
    all_of_them = Stored(disk.read, *_form(inputs))
    odd = apply(lambda x: x[:, ::-1], take(all_of_them, slice(1, None, 2)))
    few = odd.take(np.array([3, 0, 9]))
    both = concatenated([few, take(inputs, slice(5)), all_of_them])
    assert disk.count == 0
    expected = inputs[1::2, ::-1]
    np.testing.assert_array_equal(few[:], expected[[3, 0, 9]])
    np.testing.assert_array_equal(odd[np.arange(10) > 7], expected[8:])
    whole = np.concatenate([expected[[3, 0, 9]], inputs[:5], inputs])
    assert both.shape == whole.shape and both.nbytes == whole.nbytes
    which = np.array([27, 2, 3, 0, 7, 8])
    disk.count = 0
    np.testing.assert_array_equal(both[which], whole[which])
    assert disk.count == 4  # Of the others, one part is an array.
    assert both[np.zeros(0, int)].shape == (0, 3)
    for wrong in (28, -1):
        with pytest.raises(IndexError, match=f"{wrong} to {wrong} of 28 inputs"):
            both[np.array([wrong])]
    with pytest.raises(TypeError, match="read by their indices"):
        np.asarray(both)
