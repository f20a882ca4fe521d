"""What several tests of the experiments share: data, and faults of their commands."""

import os
import signal

import numpy as np
import pytest

from examples import continual
from examples.runner.data import Split


def random_split(n, seed):
    """Bytes, (n, 6), in three classes."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(0, 256, (n, 6)).astype(np.uint8)
    return Split(inputs, rng.integers(0, 3, n).astype(np.int32))


SIGNALS = {"SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}


def assert_sigterm_saves(command, folder, capsys, monkeypatch, name="SIGTERM"):
    """Sends a command a signal while it trains: it saves, and says how to go on."""
    train_steps = continual._train_steps

    def going_away(*arguments):
        os.kill(os.getpid(), SIGNALS[name])
        return train_steps(*arguments)

    monkeypatch.setattr(continual, "_train_steps", going_away)
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
