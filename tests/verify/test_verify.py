"""The verification command, as a user calls it."""

import functools
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from classp_jax.verify import _problems
from classp_jax.verify.__main__ import main
from classp_jax.verify._distance import Distance, differences
from tests import helpers
from tests.reference import mistakes

MINE = str(pathlib.Path(__file__).parents[1] / "reference" / "mistakes.py")


MODELS = {
    name: functools.cache(getattr(_problems, name))
    for name in ("cnn_problem", "transformer_problem")
}


@pytest.fixture(autouse=True)
def each_model_is_compiled_once(monkeypatch):
    for name, make in MODELS.items():
        monkeypatch.setattr(_problems, name, make)


def verify(arguments, *more):
    return main([*arguments.split(), *more])


@pytest.mark.parametrize("mode", ["lockstep", "free-running"])
@pytest.mark.parametrize(
    ("reading", "problem"),
    [
        pytest.param(
            reading,
            problem,
            marks=[pytest.mark.slow] * (problem == "transformer" and i > 0),
        )
        for i, reading in enumerate(helpers.READINGS)
        for problem in ("random", "cnn", "transformer")
    ],
)
def test_passes_for_every_reading_problem_and_mode(reading, problem, mode, capsys):
    steps = 60 if problem == "random" else 6
    arguments = f"--reading {reading} --problem {problem} --mode {mode} --steps {steps}"
    assert verify(arguments) == 0
    output = capsys.readouterr().out
    assert "AGREE: every difference is within" in output
    assert "grad_sum" in output


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("power", [0.5, 1, 1.5, 2, 3])
@pytest.mark.parametrize("reading", helpers.READINGS)
def test_passes_for_every_power_and_dtype(reading, power, dtype):
    arguments = f"--reading {reading} --power {power} --dtype {dtype} --steps 60"
    assert verify(arguments) == 0


@pytest.mark.parametrize(
    "problem",
    ["random", "cnn", pytest.param("transformer", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("reading", ["algorithm1", "equation1"])
def test_passes_with_factored_sums(reading, problem, capsys):
    arguments = f"--reading {reading} --problem {problem} --factored"
    steps = 60 if problem == "random" else 6
    assert verify(f"{arguments} --power 2 --steps {steps}") == 0
    assert f"{reading}, factored, against" in capsys.readouterr().out


def test_factored_sums_are_not_the_full_ones():
    assert verify("--factored --steps 60 --torch-args factored=False") == 1


@pytest.mark.parametrize("arguments", ["", "--factored --reading equation1"])
def test_passes_with_a_memory(arguments, capsys):
    assert verify(f"{arguments} --memory 20 --power 2 --steps 60") == 0
    assert "memory, against" in capsys.readouterr().out


def test_another_memory_is_found(capsys):
    assert verify("--memory 20 --power 2 --steps 60 --torch-args memory=21") == 1


def test_passes_in_float64_on_a_model(capsys):
    arguments = "--problem cnn --mode free-running --dtype float64 --steps 4"
    assert verify(arguments) == 0
    assert "within 1e-10" in capsys.readouterr().out


def test_passes_with_values_that_change_with_the_phase():
    arguments = "--threshold 0.25 0 --learning-rate 0.1 0.5 --eps 1e-5 1e-2 --steps 40"
    assert verify(f"{arguments} --decay-from 10") == 0


@pytest.mark.parametrize(
    "mistake",
    [
        "InclusiveThreshold",
        "CurrentStepLeftOut",
        "PowerDropped",
        "EpsilonOutsideTheRoot",
        "MaskAfterAccumulation",
    ],
)
def test_finds_each_small_mistake(mistake, capsys):
    arguments = "--power 2 --torch-optimizer"
    assert verify(arguments, f"{MINE}:Right") == 0
    assert verify(arguments, f"{MINE}:{mistake}") == 1
    assert "DIFFERENT: the " in capsys.readouterr().out


@pytest.mark.parametrize("problem", ["random", "cnn"])
@pytest.mark.parametrize("power", [1, 2])
def test_works_on_the_published_arguments(power, problem):
    steps = 10 if problem == "random" else 4
    arguments = f"--reading released --power {power} --problem {problem}"
    arguments = f"{arguments} --steps {steps}"
    assert verify(arguments, "--torch-optimizer", f"{MINE}:Published") == 0


def test_published_class_is_not_algorithm_1(capsys):
    assert verify("--torch-optimizer", f"{MINE}:Published") == 1
    assert "from step 1 on" in capsys.readouterr().out


def test_given_arguments_take_precedence_and_may_differ_by_phase():
    optimizer = ("--torch-optimizer", f"{MINE}:Published")
    arguments = "--reading released --steps 20 --learning-rate 0.1 0.3"
    assert verify(arguments, *optimizer) == 0
    same = ("--torch-args", "lr=7", "--torch-step-args", "lr=0.1,0.3")
    assert verify(arguments, *optimizer, *same) == 0
    other = ("--torch-step-args", "lr=0.1,0.4", "apply_scaling=False,True")
    assert verify(arguments, *optimizer, *other) == 1


def test_compares_weights_alone_where_there_is_no_accumulator(capsys):
    arguments = "--threshold 0 --decay-from 1000 --steps 20 --torch-optimizer"
    assert verify(arguments, f"{MINE}:NoAccumulator") == 0
    output = capsys.readouterr().out
    assert "the weights alone are compared" in output
    assert "grad_sum  " not in output


def test_a_run_in_which_nothing_moves_does_not_pass(tmp_path, capsys):
    figures = tmp_path / "figures.json"
    arguments = "--reading released --threshold 2 --steps 2 --json"
    assert verify(arguments, str(figures)) == 2
    assert "no weight moved" in capsys.readouterr().err
    assert json.loads(figures.read_text())["passed"] is False


def test_writes_json_and_plot(tmp_path):
    figures, plot = tmp_path / "figures.json", tmp_path / "drift.png"
    assert verify("--steps 7 --json", str(figures), "--plot", str(plot)) == 0
    record = json.loads(figures.read_text())
    assert record["passed"] is True
    assert record["settings"]["steps"] == 7
    for tensor in record["tensors"].values():
        for kind in ("weight", "grad_sum"):
            assert len(tensor[kind]["ulp_by_step"]) == 7
            assert tensor[kind]["first_over"] is None
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--reading released --factored", "keeps its sum in full"),
        ("--reading released --memory 9", "for ever"),
        ("--memory 1", "above 1"),
        ("--torch-optimizer nowhere.py:A", "no file 'nowhere.py'"),
        ("--torch-optimizer mine.py", "expected path/to/file.py:ClassName"),
        (f"--torch-optimizer {MINE}:Absent", "no 'Absent' in"),
        (f"--torch-optimizer {MINE}:not_a_class", "is not a torch.optim.Optimizer"),
        (f"--torch-optimizer {MINE}:Right --torch-args mu=1", "no argument 'mu'"),
        (f"--torch-optimizer {MINE}:Right --torch-step-args x=1", "no argument 'x'"),
        (f"--torch-optimizer {MINE}:Right --torch-args lr", "expected name=value"),
        (f"--torch-optimizer {MINE}:Right --torch-args lr=1,2,3", "one value or two"),
        (
            f"--torch-optimizer {MINE}:Right --torch-args lr='x'",
            "Right.step() fails: TypeError",
        ),
        (f"--torch-optimizer {MINE}:NoDecay", "no argument apply_decay"),
        (f"--torch-optimizer {MINE}:FixedDecay", "can't change 'apply_decay'"),
        ("--plot drift.foo", "must end in one of"),
        ("--seed 99999999999999999999", "must be 0 or more, below 2**31"),
        ("--threshold -1", "must be finite, 0 or more, got -1"),
        ("--threshold 1 2 3", "one value or two, got 3"),
        ("--power 0", "must be finite and above 0, in float32, got 0"),
        ("--power 1e-40", "must be finite and above 0, in float32, got 1e-40"),
        ("--steps 0", "must be 1 or more, got 0"),
        ("--steps many", "invalid _positive_int value"),
        ("--reading equation2", "invalid choice: 'equation2'"),
        ("--nonsense", "unrecognized arguments: --nonsense"),
        ("--steps 2 --json /nowhere/at/all.json", "No such file or directory"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(arguments, message, capsys):
    try:
        code = verify(arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    lines = [line for line in lines if "step/s" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [("import nothing_of_the_kind", "nothing_of_the_kind"), ("exit(0)", "SystemExit")],
)
def test_a_file_that_cannot_be_imported_is_named(text, message, tmp_path, capsys):
    broken = tmp_path / "broken.py"
    broken.write_text(text)
    assert verify("--torch-optimizer", f"{broken}:Any") == 2
    assert message in capsys.readouterr().err


def test_a_file_is_loaded_as_an_import_would(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("LR = 0.1\n")
    (tmp_path / "mine_too.py").write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "import torch\n"
        "from neighbour_of_mine import LR\n"
        "@dataclasses.dataclass\n"
        "class Settings:\n"
        "    lr: float = LR\n"
        "class Mine(torch.optim.SGD):\n"
        "    def __init__(self, params, betas):\n"
        "        assert betas == (0.9, 0.99)\n"
        "        super().__init__(params, lr=Settings().lr)\n"
    )
    arguments = "--threshold 0 --decay-from 100 --steps 5 --torch-optimizer"
    mine = f"{tmp_path / 'mine_too.py'}:Mine"
    assert verify(arguments, mine, "--torch-args", "betas=(0.9,0.99)") == 0


def test_a_tensor_closed_at_first_has_no_state_made_for_it():
    arguments = "--reading released --threshold 1 0.5 --steps 20 --torch-optimizer"
    assert verify(arguments, f"{MINE}:StateWhenOpen") == 0


def test_missing_torch_is_one_clear_line():
    code = (
        "import sys; sys.modules['torch'] = None;"
        "from classp_jax.verify.__main__ import main; sys.exit(main([]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "error: torch is not installed: pip install 'classp_jax[verify]'"
    ]


def test_runs_as_a_module():
    command = [sys.executable, "-m", "classp_jax.verify", "--steps", "3"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert any(line.startswith("AGREE") for line in result.stdout.splitlines())


def test_differences_are_relative_to_value_or_root_mean_square():
    expected = np.array([[3.0, 0.0, 4.0, 0.0]], np.float32)
    actual = expected + np.array([[0.0, 0.25, 0.0, 0.0]], np.float32)
    absolute, relative, ulp = differences(actual, expected)
    assert absolute[0] == 0.25
    assert relative[0] == 0.25 / 2.5
    assert ulp[0] == 0.25 / np.spacing(np.float32(2.5))


def test_differences_see_what_is_not_finite():
    nan, one = np.array([[np.nan]], np.float32), np.array([[1.0]], np.float32)
    assert differences(nan, nan).absolute[0] == 0
    assert differences(nan, one).relative[0] == np.inf
    assert differences(one, nan).absolute[0] == np.inf
    assert differences(one * np.inf, one * np.inf).relative[0] == 0
    assert differences(one * np.inf, one).relative[0] == np.inf


def test_what_is_not_finite_does_not_hide_the_rest():
    for bad in (np.inf, np.nan):
        expected = np.array([bad, 1.0, 1.0], np.float32)
        for other, is_over in ((5.0, True), (1.0 + 2.0**-23, False)):
            distance = Distance(expected.shape, tolerance=1e-6)
            actual = np.array([bad, 1.0, other], np.float32)
            distance.add(actual, expected)
            distance.finish()
            assert (distance.first_over == 1) == is_over


@pytest.mark.parametrize("at_once", [True, False])
def test_distance_remembers_the_first_step_over_the_tolerance(at_once):
    distance = Distance((), tolerance=0.1)
    for actual in (1.0, 1.5, 1.0):
        distance.add(np.float32(actual), np.float32(1.0))
        if not at_once:
            distance.finish()
    distance.finish()
    assert distance.first_over == 2
    assert distance.absolute == 0.5
    assert distance.ulp_by_step[0] == distance.ulp_by_step[2] == 0


def test_free_running_each_computes_its_own_gradients(monkeypatch):
    calls, backward = [], torch.autograd.backward

    def counted(*arguments):
        calls.append(None)
        backward(*arguments)

    monkeypatch.setattr(torch.autograd, "backward", counted)
    for mode, count in (("lockstep", 0), ("free-running", 3)):
        calls.clear()
        assert verify(f"--mode {mode} --steps 3") == 0
        assert len(calls) == count


def test_the_tolerance_and_the_accumulators_name_are_those_given(capsys):
    assert verify("--steps 20") == 0
    assert verify("--steps 20 --tolerance 1e-9") == 1
    assert verify("--steps 3 --torch-accumulator absent") == 0
    assert "no 'absent' in its state" in capsys.readouterr().out


def outcome(capsys, *arguments):
    """The exit code, and the lines of the verdict."""
    code = verify("", *arguments)
    lines = capsys.readouterr().out.splitlines()
    return code, [line for line in lines if line.startswith(("AGREE", "DIFFERENT"))]


@pytest.mark.parametrize("mistake", mistakes.MISTAKES)
def test_the_default_run_tells_every_mistake(mistake, capsys):
    code, lines = outcome(capsys, "--torch-optimizer", f"{MINE}:{mistake}")
    assert code == 1
    assert lines
    assert all(line.startswith("DIFFERENT: ") for line in lines)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("FirstGroupForAll", "uses the first parameter group's values for all groups"),
        ("GradientChanged", "step() changes p.grad itself: of nonfinite, at step 12"),
        ("FailsWithoutGradient", "at step 1, where p.grad of sometimes is None"),
        ("FailsLater", "RuntimeError: no more, at step 70"),
        ("ScalarsLeftOut", "what differs is the tensor without axes only"),
        ("SkipsTensorsWithNan", "where gradients are NaN or infinite at times only"),
    ],
)
def test_the_verdict_names_what_is_wrong(mistake, words, capsys):
    _, lines = outcome(capsys, "--torch-optimizer", f"{MINE}:{mistake}")
    assert words in lines[0]


@pytest.mark.parametrize("seed", ["0", "1"])
@pytest.mark.parametrize("right", mistakes.RIGHT)
def test_the_default_run_agrees_with_what_is_right(right, seed, capsys):
    optimizer = ("--torch-optimizer", f"{MINE}:{right}", "--seed", seed)
    code, (line,) = outcome(capsys, *optimizer)
    assert code == 0
    assert line.startswith("AGREE: every difference is within 1e-06")


def test_what_no_value_or_gradient_reached_is_listed(capsys):
    assert verify("") == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "values beyond learning rate 0.05-0.3, threshold 0-0.25, eps" in listed
    assert "gradients below 1e-18 or above 1e+17; tensors of five axes" in listed
    assert "a change of" not in listed
    assert verify("--power 2 --eps 0.1") == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "a change of eps or p; a group's own eps or p; p other than 2;" in listed
    assert "eps 0.1;" in listed


def test_models_that_jump_apart_by_their_own_gradients_are_explained(capsys):
    arguments = "--problem cnn --steps 2 --torch-args lr=0.02"
    for mode, is_explained in (("free-running", True), ("lockstep", False)):
        assert verify(f"{arguments} --mode {mode}") == 1
        output = " ".join(capsys.readouterr().out.split())
        assert ("--mode lockstep, or --dtype float64, tells" in output) == is_explained


def test_mistakes_show_in_the_weights_too(capsys):
    hidden = ("--torch-accumulator", "absent", "--torch-optimizer")
    for mistake in ("ResetNowAndThen", "SumClampedNowAndThen", "TinyGradientsDropped"):
        assert outcome(capsys, *hidden, f"{MINE}:{mistake}")[0] == 1


def test_the_released_reading_allows_the_first_groups_values_for_all(capsys):
    arguments = ("--reading", "released", "--torch-optimizer", f"{MINE}:Published")
    assert verify("", *arguments) == 0
    output = capsys.readouterr().out
    assert "As the released class, it uses the first parameter group's" in output
    assert verify("--reading released") == 0
    assert "As the released class" not in capsys.readouterr().out


def test_adagrad_agrees_and_so_does_the_eps_in_its_sum(capsys):
    arguments = "--power 2 --decay-from 1 --torch-optimizer torch.optim:Adagrad"
    assert verify(arguments) == 0
    output = capsys.readouterr().out
    assert "begins at eps: it is compared with eps + grad_sum" in output
    assert "NaN or infinite (a class without threshold)" in " ".join(output.split())
    other = ("--torch-args", "initial_accumulator_value=0.02")
    assert verify(arguments, *other) == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("reading", helpers.READINGS)
def test_passes_with_weights_of_16_bits(reading, dtype, capsys):
    assert verify(f"--reading {reading} --dtype {dtype}") == 0
    sums = [line for line in capsys.readouterr().out.splitlines() if "grad_sum" in line]
    assert all("1e-06" in line or "1e-05" in line for line in sums)


def test_a_sum_of_16_bits_is_told():
    assert verify(f"--dtype bfloat16 --torch-optimizer {MINE}:Right") == 1


@pytest.mark.parametrize("more", ["", "--factored"])
@pytest.mark.parametrize("reading", ["algorithm1", "equation1"])
def test_passes_with_a_relative_threshold(reading, more):
    assert verify(f"--relative {more} --reading {reading}") == 0


def test_a_relative_threshold_is_not_the_other():
    assert verify(f"--relative --torch-optimizer {MINE}:Right") == 1


def test_arguments_that_no_option_reaches_are_told(capsys):
    """Of a class whose threshold has another name, agreement says nothing."""
    assert verify("--torch-optimizer torch.optim:SGD --decay-from 200") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "can't tell: what begins after step 100; momentum, dampening" in output
    assert "which kept their defaults" in output
    given = "--torch-args momentum=0.0 --decay-from 200"
    assert verify(f"--torch-optimizer torch.optim:SGD {given}") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "after step 100; dampening" in output


def test_a_decay_that_never_opens_is_refused_or_told(capsys):
    assert verify("--decay-from 101") == 2
    assert "--decay-from 101 is behind the last of 100" in capsys.readouterr().err
    assert verify("--decay-from 100") == 0
    output = capsys.readouterr().out
    assert "decay open at steps 100\n" in output
    assert "a decay that closes again" in output
    arguments = "--decay-from 200 --torch-optimizer torch.optim:SGD"
    assert verify(arguments) == 0
    assert "the division: the decay never opens" in " ".join(
        capsys.readouterr().out.split()
    )


def test_steps_count_from_1_in_options_and_output(capsys):
    optimizer = ("--torch-optimizer", f"{MINE}:EpsilonOutsideTheRoot")
    assert verify("--power 2 --decay-from 7 --steps 20", *optimizer) == 1
    output = capsys.readouterr().out
    assert "decay open at steps 7-20" in output
    assert "from step 7 on" in output


@pytest.mark.parametrize(
    "arguments", ["--steps 1", "--steps 2", "--problem cnn --steps 3"]
)
def test_short_runs_pass_and_say_what_they_lack(arguments, capsys):
    assert verify(arguments) == 0
    assert "This run can't tell: what begins after step" in capsys.readouterr().out


def test_help_fits_on_a_screen(capsys):
    with pytest.raises(SystemExit):
        verify("--help")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


NEIGHBOURS = {
    "random.py": "raise ImportError('of the user')",
    "tests/__init__.py": "",
    "tests/rates.py": "LR = 0.1",
    "own/rates.py": "LR = 0.1",
}
OF_THE_USER = """
import random
import torch
from own.rates import LR
from tests.rates import LR
import {name}
assert random.random() < 1
class Mine(torch.optim.SGD):
    def __init__(self, params):
        super().__init__(params, lr=LR)
"""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("colorsys", "random"),
        # Which imports the models, behind the class, and from another "tests".
        ("colorsys", "cnn"),
        ("json", "cnn"),
        ("verified_class", "cnn"),
    ],
)
def test_a_class_lives_beside_whatever_files(name, problem, tmp_path):
    for path, text in NEIGHBOURS.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / f"{name}.py").write_text(OF_THE_USER.format(name=name))
    arguments = f"--problem {problem} --steps 2 --threshold 0 --decay-from 9"
    where = ("--learning-rate", "0.1", "--torch-optimizer")
    command = [sys.executable, "-m", "classp_jax.verify", *arguments.split(), *where]
    run = subprocess.run(
        [*command, f"{tmp_path / name}.py:Mine"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_a_class_without_parameter_groups_is_compared_without(tmp_path, capsys):
    (tmp_path / "no_groups.py").write_text(
        "import torch\n"
        "class Mine(torch.optim.SGD):\n"
        "    def __init__(self, params, lr):\n"
        "        params = list(params)\n"
        "        self.zeros = [torch.zeros_like(p) for p in params]\n"
        "        super().__init__(params, lr=lr)\n"
    )
    where = ("--torch-optimizer", f"{tmp_path / 'no_groups.py'}:Mine")
    assert verify("--decay-from 200", *where) == 0
    assert "parameter groups; p other than 1" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_value_that_cannot_be_changed_is_named(tmp_path, capsys):
    (tmp_path / "fixed_threshold.py").write_text(
        "from tests.reference.mistakes import Right\n"
        "class Mine(Right):\n"
        "    def __init__(self, params, lr, threshold, eps, power, apply_decay):\n"
        "        super().__init__(params, lr, threshold, eps, power, apply_decay)\n"
        "        self.threshold = self.defaults.pop('threshold')\n"
        "        for group in self.param_groups:\n"
        "            del group['threshold']\n"
        "    def used(self, group):\n"
        "        return {**group, 'threshold': self.threshold}\n"
    )
    where = ("--torch-optimizer", f"{tmp_path / 'fixed_threshold.py'}:Mine")
    assert verify("", *where) == 2
    assert "can't change 'threshold' between steps" in capsys.readouterr().err
    assert verify("--threshold 0.25", *where) == 0
