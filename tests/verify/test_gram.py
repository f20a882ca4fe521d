"""The verification command on sums of directions."""

import json
import pathlib

import pytest

from classp_jax.verify.__main__ import main
from tests.reference import gram_mistakes

MINE = str(pathlib.Path(gram_mistakes.__file__))


def verify(arguments, *more):
    return main(["--reading", "gram", *arguments.split(), *more])


@pytest.mark.parametrize(
    "arguments", ["--mode free-running", "--memory 20 --relative", "--dtype bfloat16"]
)
def test_passes_in_every_form(arguments, capsys):
    assert verify(f"--steps 30 {arguments}") == 0
    output = capsys.readouterr().out
    assert output.startswith("gram") and "grad_sum" in output
    assert "AGREE: every difference is within" in output


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["cnn", "transformer"])
def test_passes_on_models(problem):
    assert verify(f"--problem {problem} --steps 12") == 0


def test_passes_with_one_value_each_in_float64(capsys):
    values = "--damping 0.5 --exponent 3 --refresh-every 1 --threshold 0 0.1"
    assert verify(f"{values} --dtype float64 --steps 30 --decay-from 4") == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "within 1e-12" in listed
    assert (
        "exponent other than 3; refresh_every other than 1; a sketch (rank)" in listed
    )
    assert "damping 0.5; gradients below 1e-18 or above 3e+00;" in listed
    assert "blocks (more inputs than max_dim)" in listed


@pytest.mark.parametrize(
    "argument", ["damping=2", "exponent=2", "refresh_every=4", "memory=21"]
)
def test_another_value_is_found(argument, capsys):
    more = ("--memory", "20", "--torch-args", argument)
    assert verify("--steps 30", *more) == 1
    assert "DIFFERENT: the " in capsys.readouterr().out


def test_a_class_written_otherwise_agrees(capsys):
    assert verify("", "--torch-optimizer", f"{MINE}:Right") == 0
    assert "grad_sum" in capsys.readouterr().out


@pytest.mark.parametrize("mistake", gram_mistakes.MISTAKES)
def test_the_default_run_tells_every_mistake_in_sums_of_directions(mistake, capsys):
    assert verify("", "--torch-optimizer", f"{MINE}:{mistake}") == 1
    assert "DIFFERENT: the " in capsys.readouterr().out


def test_sums_have_the_shape_of_their_inputs(tmp_path):
    figures = tmp_path / "figures.json"
    assert verify("--steps 4 --json", str(figures)) == 0
    tensors = json.loads(figures.read_text())["tensors"]
    assert tensors["window"]["weight"]["shape"] == [2, 3, 2, 2]
    assert tensors["window"]["grad_sum"]["shape"] == [1, 12, 12]
    assert tensors["bias"]["grad_sum"]["shape"] == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--eps 1", "--reading gram has no --eps"),
        ("--power 2", "--reading gram has no --power"),
        ("--factored", "no --factored"),
        ("--problem cnn --mode free-running", "--mode lockstep"),
        ("--refresh-every 0", "must be 1 or more, got 0"),
        ("--reading released --damping 1", "--reading released has no --damping"),
        ("--reading equation1 --exponent 1", "--reading equation1 has no --exponent"),
        ("--reading algorithm1 --refresh-every 3", "has no --refresh-every"),
    ],
)
def test_options_of_other_optimizers_are_refused(arguments, message, capsys):
    try:
        code = verify(arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
