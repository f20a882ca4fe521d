"""A run that is stopped goes on as if it had not been."""

import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.methods import ewc as ewc_method
from examples.methods.ewc import EWC
from examples.runner import batches, checkpoints, rows, side_by_side
from examples.runner.checkpoints import CheckpointError, Saving, Trail
from examples.runner.plan import Method, Phase
from examples.runner.stopping import Preempted, Sigterm
from tests.examples.helpers import SIGNALS, without_times
from tests.examples.runner import small_run

# By other processes, too, whose rows are to be the same.
pytestmark = pytest.mark.usefixtures("density_is_measured")

ROOT = pathlib.Path(__file__).parents[3]
METHOD = small_run.method(4)
TREE = {
    "kernel": jnp.arange(12.0).reshape(3, 4),
    "half": jnp.full(3, 0.1, jnp.bfloat16),
    "key": jax.random.key(7),
    "nothing": None,
    "step": jnp.array(5),
}


def trail(folder, made_by=(), **saving):
    return Trail("a-phase", dict(made_by), Saving(folder, **saving))


def restored(folder, made_by=(), tree=None):
    opened = trail(folder, made_by)
    try:
        return opened.restore(lambda progress: TREE if tree is None else tree)
    finally:
        opened.close()


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of the steps 2 and 3."""
    opened = trail(tmp_path, {"version of": {"jax": "1.0"}})
    for step in (1, 2, 3):
        opened.save(step, {"at": step}, TREE | {"step": jnp.array(step)})
    opened.close()
    return tmp_path


def stopping_at(monkeypatch, number, by=None):
    """Stops in the middle of the block of steps of that number."""
    blocks, train_steps = [], side_by_side.train_steps

    def counted(*arguments):
        result = train_steps(*arguments)
        blocks.append(None)
        if len(blocks) == number:
            if by is None:
                raise KeyboardInterrupt
            os.kill(os.getpid(), by)
        return result

    monkeypatch.setattr(side_by_side, "train_steps", counted)
    return blocks


def assert_same_rows(folder, expected, seeds=small_run.SEEDS):
    """The same rows in their order, once each."""
    one, other = (
        [without_times(row) for row in rows.read(f / "rows.jsonl")]
        for f in (folder, expected)
    )
    assert one == other
    assert [row["seed"] for row in one] == list(seeds)


def assert_same_arrays(folder, expected):
    """Weights and sums behind every phase to the bit."""
    files = sorted(expected.glob("*.npz"))
    assert len(files) >= 3
    for file in files:
        with np.load(file) as there, np.load(folder / file.name) as here:
            assert set(there) == set(here)
            for name in there:
                np.testing.assert_array_equal(here[name], there[name], strict=True)


@pytest.mark.slow
def test_killed_at_20_random_moments(tmp_path):
    expected, folder, epochs, kills = tmp_path / "whole", tmp_path / "killed", 60, 20
    begin = time.monotonic()
    small_run.Recording(expected).run(
        "classp", small_run.method(epochs), small_run.SEEDS
    )
    at_most = (time.monotonic() - begin) / kills
    rng, while_saving = random.Random(0), 0

    def start():
        command = [sys.executable, "-m", "tests.examples.runner.small_run"]
        return subprocess.Popen(
            [*command, folder, str(epochs)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    for _ in range(kills):
        process = start()
        process.stdout.readline()  # It has begun to train.
        time.sleep(rng.uniform(0, at_most))
        assert process.poll() is None
        process.kill()
        process.communicate()
        while_saving += any(folder.glob("checkpoints/*/*tmp*"))
    last = start()
    last.communicate()
    assert last.returncode == 0
    print(f"{kills} kills, {while_saving} of them with a checkpoint half written")
    assert while_saving
    assert_same_rows(folder, expected)
    assert_same_arrays(folder, expected)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A runner, and the folder of what it does when nobody stops it."""
    folder = tmp_path_factory.mktemp("whole")
    runner = small_run.Recording(folder)
    runner.run("classp", METHOD, small_run.SEEDS)
    return runner, folder


def test_stopped_anywhere_it_ends_as_if_it_had_not_been(whole, tmp_path, monkeypatch):
    runner, expected = whole
    runner.write_to(tmp_path)
    stops = (1, 3, 2, 5, 2, 3)  # Of 4 blocks a phase.
    for number in stops:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stopping_at(patch, number)
            runner.run("classp", METHOD, small_run.SEEDS)
    with monkeypatch.context() as patch:
        blocks = stopping_at(patch, 0)
        runner.run("classp", METHOD, small_run.SEEDS)
    # A stop costs the block that it comes in, and no other.
    assert sum(stops) + len(blocks) == 2 * 2 * 4 + len(stops)
    assert_same_rows(tmp_path, expected)
    assert_same_arrays(tmp_path, expected)
    # Nothing but what other methods may begin with is left.
    files = [path.suffix for path in (tmp_path / "checkpoints").iterdir()]
    assert files == [".npz", ".npz"]


def test_stopped_within_an_epoch_it_goes_on_there(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK", 3)  # Of the 5 steps an epoch has.
    expected, folder = tmp_path / "whole", tmp_path / "stopped"
    runner = small_run.Recording(expected)
    runner.run("classp", METHOD, small_run.SEEDS)
    runner.write_to(folder, every=3)
    for number in (2, 5, 4):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stopping_at(patch, number)
            runner.run("classp", METHOD, small_run.SEEDS)
    runner.run("classp", METHOD, small_run.SEEDS)
    assert_same_rows(folder, expected)
    assert_same_arrays(folder, expected)


def test_seeds_that_end_at_different_times_go_on_as_well(tmp_path, monkeypatch):
    phase = Phase({"a": 60}, "sgd", dict(learning_rate=0.1), stop_loss=0.85)
    method = Method("SGD", (phase,), ("train",))
    expected, folder = tmp_path / "whole", tmp_path / "stopped"
    runner = small_run.Recording(expected, vmap_seeds=3)
    runner.run("sgd", method, range(3))
    read = rows.read(expected / "rows.jsonl")
    first, second, third = sorted(row["results"][0]["epochs"] for row in read)
    assert first + 1 < second and second + 1 < third
    runner.write_to(folder)
    # The first, then the second has ended when it is stopped.
    for number in (first + 2, second - first + 1):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stopping_at(patch, number)
            runner.run("sgd", method, range(3))
    runner.run("sgd", method, range(3))
    assert_same_rows(folder, expected, range(3))
    assert_same_arrays(folder, expected)


def test_a_fisher_is_not_taken_again(tmp_path, monkeypatch):
    first, _ = METHOD.phases
    penalty = EWC(strength=1.0, examples=20)
    second = Phase({"b": 4}, "sgd", dict(learning_rate=0.1), (penalty,))
    ewc = Method("EWC", (first, second), ("train",))
    expected, folder = tmp_path / "whole", tmp_path / "stopped"
    runner = small_run.Recording(expected)
    runner.run("ewc", ewc, small_run.SEEDS)
    runner.write_to(folder)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping_at(patch, 4 + 2)
        runner.run("ewc", ewc, small_run.SEEDS)
    runner.write_to(folder)  # What was computed in memory is gone.
    taken, fisher_of_examples = [], ewc_method.fisher_of_examples

    def counted(*arguments):
        taken.append(None)
        return fisher_of_examples(*arguments)

    monkeypatch.setattr(ewc_method, "fisher_of_examples", counted)
    runner.run("ewc", ewc, small_run.SEEDS)
    assert len(taken) == 1  # The second seed's.
    assert_same_rows(folder, expected)
    assert_same_arrays(folder, expected)


def test_a_row_not_written_is_written_later(whole, tmp_path, monkeypatch):
    def full(path, *new):
        raise OSError("No space left on device")

    runner, expected = whole
    runner.write_to(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(rows, "append", full)
        runner.run("classp", METHOD, small_run.SEEDS)
    with monkeypatch.context() as patch:
        stopping_at(patch, 9)  # Not one step more for the first of the seeds.
        runner.run("classp", METHOD, small_run.SEEDS)
    assert_same_rows(tmp_path, expected)
    assert_same_arrays(tmp_path, expected)


@pytest.mark.parametrize("number", SIGNALS.values(), ids=SIGNALS)
def test_sigterm_is_held_until_a_block_of_steps_is_saved(
    whole, tmp_path, monkeypatch, number
):
    runner, expected = whole
    runner.write_to(tmp_path, every=1000)
    for step in (3 * 5, 2 * 5):  # In the first phase, then in the second.
        with (
            monkeypatch.context() as patch,
            pytest.raises(Preempted),
            Sigterm() as sigterm,
        ):
            runner.stop_at(sigterm)
            stopping_at(patch, 3, number)
            runner.run("classp", METHOD, small_run.SEEDS)
        (checkpoint,) = tmp_path.glob("checkpoints/*/[0-9]*")
        assert int(checkpoint.name) == step
    runner.stop_at(Sigterm())
    runner.run("classp", METHOD, small_run.SEEDS)
    assert_same_rows(tmp_path, expected)
    assert_same_arrays(tmp_path, expected)


def test_a_checkpoint_comes_back_to_the_bit(saved):
    progress, tree = restored(saved, {"version of": {"jax": "1.0"}})
    assert progress == {"at": 3}
    chex.assert_trees_all_equal_shapes_and_dtypes(tree, TREE)
    data = [jax.random.key_data(t.pop("key")) for t in (tree, dict(TREE))]
    np.testing.assert_array_equal(*data)
    expected = {k: x for k, x in TREE.items() if k != "key"}
    chex.assert_trees_all_equal(tree, expected | {"step": jnp.array(3)})
    assert sorted(path.name for path in (saved / "a-phase").glob("[0-9]*")) == [
        "2",
        "3",
    ]


def test_what_is_saved_is_a_copy(tmp_path):
    opened, tree = trail(tmp_path), {"x": jnp.zeros(10**6)}
    progress = {"at": [1]}
    opened.save(1, progress, tree)
    # A step that was given the buffers would write the new weights into them.
    jax.jit(lambda x: x + 1, donate_argnums=0)(tree["x"]).block_until_ready()
    progress["at"].append(2)
    opened.close()
    progress, tree = restored(tmp_path, tree={"x": jnp.ones(10**6)})
    assert progress == {"at": [1]} and not np.any(tree["x"])


def largest(folder):
    return max(
        (path for path in folder.rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )


def truncate(folder):
    os.truncate(largest(folder), largest(folder).stat().st_size // 2)


def flip_a_bit(folder):
    content = bytearray(largest(folder).read_bytes())
    content[len(content) // 2] ^= 1
    largest(folder).write_bytes(content)


def empty_progress(folder):
    os.truncate(folder / "progress" / "metadata", 0)


def lose_the_arrays(folder):
    shutil.rmtree(folder / "state")


@pytest.mark.parametrize(
    "damage", [truncate, flip_a_bit, empty_progress, lose_the_arrays]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(saved, damage):
    made_by = {"version of": {"jax": "1.0"}}
    damaged = saved / "a-phase" / "3"
    damage(damaged)
    with pytest.raises(CheckpointError) as info:
        restored(saved, made_by)
    message = str(info.value)
    assert message.startswith(f"{damaged} is damaged (") and "\n" not in message
    assert message.endswith("delete it, and the same command goes on from step 2.")
    shutil.rmtree(damaged)
    progress, tree = restored(saved, made_by)
    assert progress == {"at": 2} and tree["step"] == 2


@pytest.mark.parametrize(
    ("made_by", "changes", "message"),
    [
        ({"version of": {"jax": "1.1"}}, {}, "version of jax is 1.0 there and 1.1"),
        ({"version of": {}}, {}, "version of jax is 1.0 there and None here"),
        ({"phase": {"0": "sgd"}}, {}, "phase 0 is None there and sgd here"),
        (
            {},
            {"kernel": jnp.zeros((3, 5))},
            "tensor kernel is float32[3, 4] there and float32[3, 5] here",
        ),
        ({}, {"kernel": jnp.zeros((3, 4), jnp.int32)}, "and int32[3, 4] here"),
        ({}, {"bias": jnp.zeros(4)}, "tensor bias is None there and float32[4]"),
    ],
)
def test_a_checkpoint_of_something_else_is_named(saved, made_by, changes, message):
    made_by = {"version of": {"jax": "1.0"}} | made_by
    with pytest.raises(CheckpointError) as info:
        restored(saved, made_by, TREE | changes)
    assert str(info.value).startswith(f"{saved / 'a-phase' / '3'} isn't of this run: ")
    assert message in str(info.value) and "\n" not in str(info.value)


def test_a_runner_refuses_another_optimizers_checkpoint(whole, tmp_path, monkeypatch):
    runner, _ = whole
    runner.write_to(tmp_path)
    found = set()
    for rate in (0.1, 0.2):
        slow = dict(learning_rate=rate, apply_decay=False)
        method = Method("", (Phase({"a": 4}, "classp", slow),), ("train",))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stopping_at(patch, 2)
            runner.run("", method, [0])
        (new,) = set((tmp_path / "checkpoints").iterdir()) - found
        found.add(new)
    (old,) = found - {new}
    shutil.rmtree(new)
    old.rename(new)
    with pytest.raises(CheckpointError, match=r"phase 0 is .*0\.1.* there and .*0\.2"):
        runner.run("", method, [0])


def test_one_process_alone_writes_the_checkpoints_of_a_phase(tmp_path, capsys):
    first, second = trail(tmp_path), trail(tmp_path)
    assert "in use by another process" in capsys.readouterr().err
    first.save(1, {}, TREE)
    second.save(2, {}, TREE)
    assert second.restore(lambda progress: TREE) is None
    second.close(delete=True)
    first.close()
    assert [path.name for path in (tmp_path / "a-phase").glob("[0-9]*")] == ["1"]


def test_an_unwritable_folder_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(CheckpointError, match=f"{file}.* can't be written"):
        trail(file)
    with pytest.raises(CheckpointError, match=f"{file}.* can't be written"):
        checkpoints.save(file / "a.npz", TREE, [])


def test_a_full_disk_is_named_and_leaves_the_checkpoint_before(tmp_path):
    """A limit on the size of a file stops a write as a full disk does."""
    (small,) = ({"x": jnp.zeros(10)},)
    large = {"x": jax.random.normal(jax.random.key(0), (10**6,))}
    opened = trail(tmp_path)
    opened.save(1, {"at": 1}, small)
    opened.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, limits[1]))
    try:
        with pytest.raises(CheckpointError) as info:
            opened.save(2, {"at": 2}, large)
            opened.wait()
        with pytest.raises(CheckpointError, match=r"b\.npz can't be written"):
            checkpoints.save(tmp_path / "b.npz", large, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        opened.close()
    assert str(tmp_path / "a-phase") in str(info.value)
    assert str(info.value).endswith("there are those of the steps [1].")
    assert restored(tmp_path, tree=small)[0] == {"at": 1}
    assert not list(tmp_path.glob("b*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: os.truncate(file, file.stat().st_size // 2), "is damaged"),
        (lambda file: file.write_bytes(b""), "is damaged"),
        (
            lambda file: np.savez(file, results=np.array([{}], object)),
            "Object arrays cannot be loaded when allow_pickle=False",
        ),
        (
            lambda file: checkpoints.save(file, {"x": jnp.zeros(3)}, []),
            "isn't of this run: number of tensors is 1 there and 2 here",
        ),
        (
            lambda file: checkpoints.save(file, dict(x=jnp.zeros(3), y=1), []),
            "isn't of this run: tensor x is float32[3] there and float32[2] here",
        ),
    ],
)
def test_a_damaged_or_foreign_file_behind_a_phase_is_named(tmp_path, damage, message):
    file, tree = tmp_path / "a.npz", dict(x=jnp.ones(2), y=jnp.zeros([], jnp.int32))
    checkpoints.save(file, tree, [{"epochs": 1}])
    found, results = checkpoints.load(file, tree)
    chex.assert_trees_all_equal(found, tree)
    assert results == [{"epochs": 1}]
    damage(file)
    with pytest.raises(CheckpointError) as info:
        checkpoints.load(file, tree)
    assert str(file) in str(info.value) and message in str(info.value)
    assert "delete it" in str(info.value) and "\n" not in str(info.value)
