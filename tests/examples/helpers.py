"""What tests of the experiments share: data, phases, and faults of commands."""

import json
import os
import signal

import numpy as np
import optax
import pytest

from examples.runner import batches, rows, side_by_side
from examples.runner.data import Split
from examples.runner.plan import Method, Phase


def random_split(n, seed):
    """Bytes, (n, 6), in three classes."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(0, 256, (n, 6)).astype(np.uint8)
    return Split(inputs, rng.integers(0, 3, n).astype(np.int32))


def preprocess(inputs):
    return inputs / 255 - 0.5


def phase(
    task, optimizer="sgd", learning_rate=0.1, epochs=2, plugins=(), **hyperparameters
):
    hyperparameters["learning_rate"] = learning_rate
    return Phase({task: epochs}, optimizer, hyperparameters, plugins)


COLLECT = phase("z", "classp", apply_decay=False)
CLASSP = Method("CLASSP", (COLLECT, phase("b", "classp")), ("train", "test"))
SGD = Method("SGD", (COLLECT, phase("b")))


def three_phases(first=None, **then):
    return phase("z", **(first or {})), phase("b", **then), phase("c", **then)


def final_state(runner, phases, seed=0):
    (outcome,) = runner.train(phases, [seed])
    return outcome.state


def penalties_of(state):
    return [optax.tree.get(state.opt_state, key) for key in ("fisher", "anchor")]


def batches_of(experiment, phase, number, seed):
    """All of a phase's batches, the epochs one behind the other."""
    sizes = {name: len(task.train.labels) for name, task in experiment.tasks.items()}
    tasks = batches.of_tasks(sizes)
    epochs = batches.of_phase(phase, number, seed, tasks, experiment.batch_size)
    return np.concatenate([block for epoch in epochs for block in epoch])


def without_times(row):
    row = json.loads(json.dumps(row))
    for result in row["results"]:
        del result["seconds"]
    return row


def read(folder):
    return rows.read(folder / "rows.jsonl")


SIGNALS = {"SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}


def assert_sigterm_saves(command, folder, capsys, monkeypatch, name="SIGTERM"):
    """Sends a command a signal while it trains: it saves, and says how to go on."""
    train_steps = side_by_side.train_steps

    def going_away(*arguments):
        os.kill(os.getpid(), SIGNALS[name])
        return train_steps(*arguments)

    monkeypatch.setattr(side_by_side, "train_steps", going_away)
    out = str(folder / "a folder")
    with pytest.raises(SystemExit) as info:
        command.main(["--methods", "classp", "--batch-size", "16", "--out", out])
    assert info.value.code == 0
    said = capsys.readouterr().err
    assert ("Ctrl-C: saves and stops when" in said) == (name == "Ctrl-C")
    assert said.endswith(
        f"Stopped by {name}; to go on: python -m {command.__package__} --methods"
        f" classp --batch-size 16 --out '{out}'\n"
    )
    assert list(folder.glob("a folder/checkpoints/*/[0-9]*"))


def assert_prints_what_it_wrote(text, folder, *files):
    """What a command ended with: each of the files, which is there, on a line."""
    lines = text.splitlines()
    for name in ("rows.jsonl", "table.md", *files):
        assert f"Written: {folder / name}" in lines
        assert (folder / name).exists()
    assert text.count("Written: ") == 2 + len(files)


def assert_names_what_is_wrong(command, arguments, message, capsys, folder):
    """Gives a command arguments that it can't use: it says why, and exits with 2."""
    out = [] if "--out" in arguments else ["--out", str(folder)]
    with pytest.raises(SystemExit) as info:
        command.main([*arguments.split(), *out])
    assert info.value.code == 2
    assert message in capsys.readouterr().err


def assert_names_what_cannot_be_written(command, folder, capsys):
    """Gives a command a file for a folder: it names it, in one line."""
    (folder / "file").write_text("")
    arguments = ["--batch-size", "16", "--out", str(folder), "--checkpoint-dir"]
    with pytest.raises(SystemExit) as info:
        command.main([*arguments, str(folder / "file")])
    assert info.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith(f"python -m {command.__package__}: error: ")
    assert str(folder / "file") in message and message.count("\n") == 1
