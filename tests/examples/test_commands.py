"""What all commands do; whatever a user types, no traceback comes back."""

import argparse
import contextlib
import io
import re

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from benchmarks import (
    accumulation,
    compiled,
    input_pipeline,
    optimizers,
    train_step,
    update,
)
from classp_jax.verify import __main__ as verify
from classp_jax.verify._torch_optimizer import InputError
from examples.datasets.tfds import DatasetError
from examples.demo import __main__ as demo
from examples.language import __main__ as language
from examples.language import report as language_report
from examples.models.mlp import MLP
from examples.models.registry import Model, models
from examples.report import index
from examples.runner import cli
from examples.runner.data import Split, Task
from examples.sentiment import __main__ as sentiment
from examples.sentiment import report as sentiment_report
from examples.streams import __main__ as streams
from examples.streams import regret
from examples.streams import report as streams_report
from examples.vision import __main__ as vision
from examples.vision import report as vision_report
from tests.examples.datasets.test_stream import whole

SHARED = (
    "--methods --list-methods --dry-run --seeds --seed --data-dir --out"
    " --checkpoint-dir --save-every --keep --vmap-seeds --mesh --dtype --batch-size"
)
OPTIONS = {
    demo: "--methods --epochs --seeds --seed --out",
    vision: f"{SHARED} --distributed --evaluate-with-dropout",
    sentiment: f"{SHARED} --phrasebank --tokenizer --label-map",
    streams: f"{SHARED} --benchmark --scenario --tasks --epochs --model --stream-seed"
    " --validation --from-disk --best-in",
    language: f"{SHARED.replace('--data-dir', '--text')} --bytes --validation --epochs"
    " --width --layers --heads --context",
    language_report: "--no-figures",
    vision_report: "--evaluate-with-dropout",
    streams_report: "--evaluate-with-dropout",
    sentiment_report: "--evaluate-with-dropout",
    verify: "--reading --problem --mode --steps --decay-from --dtype --seed --power"
    " --learning-rate --threshold --eps --tolerance --torch-optimizer --torch-args"
    " --torch-step-args --torch-accumulator --json --plot --relative --factored",
}
WORDS = [
    *("0", "1", "2", "-1", "16", "1e-5", "0.1", "1e39", "1e999", "nan", "-inf", "1_0"),
    *("9" * 30, "9" * 5000, "0x10", "\N{MINUS SIGN}1", "\N{ARABIC-INDIC DIGIT ONE}"),
    *("", " ", "--", "-", "=", "a=b", "lr=1,2", "lr=1,2,3", "lr=" + "(" * 500, "#"),
    *(
        "data=8",
        "model=" + "9" * 30,
        "classp",
        "paper",
        "sgd",
        "spacy",
        "released",
        "random",
        "float64",
        "replay_0.1",
        "split_mnist",
        "task",
        "cnn",
    ),
    *("file", "folder", "missing", "missing/missing", "file/below", "x" * 300, "."),
    *(
        "file.py:Class",
        "file:",
        "~nobody-of-that-name",
        "folder/new",
        "new.png",
        "\udcff",
    ),
]
ANYTHING = st.sampled_from(WORDS) | st.text().filter(
    lambda text: "/" not in text and "\0" not in text
)


class Runner:
    def __init__(self, *arguments):
        pass

    def run(self, name, method, seeds):
        pass


@pytest.fixture
def stubs(monkeypatch, tmp_path):
    """What takes long is left out, and what is written goes to a folder of its own."""

    def split(n):
        return Split(np.zeros((n, 28, 28, 1), np.uint8), np.zeros(n, np.int32))

    tasks = {name: Task(split(32), split(20)) for name in ("mnist", "fashion_mnist")}

    def load(data_dir=None, *arguments, **options):
        if data_dir is None:
            raise DatasetError("not there")
        return tasks if not arguments else (tasks, 10)

    def nothing(*arguments, **options):
        pass

    def stop(*arguments):
        raise InputError("as far as arguments matter")

    for command in (vision, sentiment):
        monkeypatch.setattr(command, "load", load)
        monkeypatch.setattr(command.report, "write", nothing)
    for of_mnist in ("load", "load_stored"):
        monkeypatch.setattr(
            f"examples.datasets.mnist.{of_mnist}", lambda folder, names: load(folder)
        )
    monkeypatch.setattr(streams.report, "write", nothing)
    monkeypatch.setattr(cli, "Runner", Runner)
    monkeypatch.setattr(vision, "save_samples", nothing)
    monkeypatch.setattr(demo, "_learn", lambda *arguments: [])
    monkeypatch.setattr(demo.report, "save_figure", nothing)
    monkeypatch.setattr(verify, "_problem", stop)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("{")
    (tmp_path / "file.py").write_text("raise SystemExit")
    (tmp_path / "folder").mkdir()


@pytest.mark.parametrize("examples", [100, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", OPTIONS, ids=lambda command: command.__name__)
def test_no_traceback_whatever_is_typed(stubs, command, examples):
    option = st.sampled_from(OPTIONS[command].split())
    pair = st.tuples(option, ANYTHING).map(list)
    words = st.lists(pair | st.lists(ANYTHING | option, max_size=2), max_size=4)

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    )
    @hypothesis.given(words)
    def check(words):
        out, err = io.StringIO(), io.StringIO()
        code = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = command.main([word for part in words for word in part])
            except SystemExit as exit_:
                code = exit_.code
        if code not in (0, None):
            assert "error: " in err.getvalue()

    check()


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_model_that_cannot_take_the_data_is_named(
    more, monkeypatch, capsys, tmp_path
):
    too_small = Model(lambda rngs, classes, shape: MLP(rngs, classes, (6,)), "small")
    monkeypatch.setitem(models(), "mlp", too_small)
    monkeypatch.setattr(
        "examples.datasets.mnist.load", lambda data_dir, names: {"mnist": whole()}
    )
    with pytest.raises(SystemExit):
        streams.main(["--out", str(tmp_path), *more])
    assert "error: The model can't take inputs uint8" in capsys.readouterr().err


def expanded(families):
    """The names that ``ewc_{10,30}, sgd`` stands for."""
    names = []
    for family in re.findall(r"(?:[^,{]|{[^}]*})+", families):
        stem, _, values = family.strip().partition("{")
        names += [stem + value for value in values.rstrip("}").split(",")]
    return names


def printed(command, option, capsys):
    """The lines with which a command answers an option that ends it."""
    with pytest.raises(SystemExit) as info:
        command.main([option])
    assert info.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "command",
    [
        *(*OPTIONS, regret, index, update, train_step, optimizers, accumulation),
        *(compiled, input_pipeline),
    ],
    ids=lambda command: command.__name__,
)
def test_help_fits_on_a_screen_and_names_every_option(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = printed(command, "--help", capsys)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    words = {word.strip("[],") for line in lines for word in line.split()}
    assert {*OPTIONS.get(command, "").split()} <= words
    assert not {"[]", "None)", "True)", "False)"} & {*" ".join(lines).split()}


@pytest.mark.parametrize("command", [vision, sentiment, streams, language])
def test_the_list_names_every_method_once(command, capsys):
    *lines, groups = printed(command, "--list-methods", capsys)
    listed = [expanded(line.rsplit(": ", 1)[1]) for line in lines]
    names = [name for of_line in listed for name in of_line]
    assert len(names) == len(set(names)) > 10
    assert groups.startswith("Groups: ")
    study = getattr(command, "STUDY", None)
    assert study is None or set(names) == set(study.methods)


@pytest.mark.parametrize(("asked", "expected"), [(None, "float32"), ("high", "high")])
def test_products_are_of_whole_numbers_unless_asked_otherwise(asked, expected):
    before, seen = jax.config.jax_default_matmul_precision, []

    def train(*_):
        seen.append(jax.config.jax_default_matmul_precision)

    with jax.default_matmul_precision(asked):
        cli.command(argparse.ArgumentParser(), [], train)
    assert seen == [expected]
    assert jax.config.jax_default_matmul_precision == before
