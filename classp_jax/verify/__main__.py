"""Command line of the verification: ``python -m classp_jax.verify``."""

from __future__ import annotations

import argparse
import math
import pathlib
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import jax
import numpy as np

from classp_jax._hyperparameters import LARGEST, SMALLEST

if TYPE_CHECKING:
    from classp_jax.verify._problems import Problem
    from classp_jax.verify._run import Target
    from classp_jax.verify._schedule import Schedule

_Number = TypeVar("_Number", int, float)
_OWN_GRADIENTS = (
    "Each computed its own gradients, and two right runs jump apart where rounding"
    " decides a ReLU or a maximum: --mode lockstep, or --dtype float64, tells whether"
    " the optimizers differ."
)
_STEPS = {"random": 100, "cnn": 20, "transformer": 20}


def main(argv: Sequence[str] | None = None) -> int:
    """Compares JAX with PyTorch; 0 if they agree, 1 if not, 2 if it can't be run."""
    args = _parser().parse_args(argv)
    if args.steps is None:
        args.steps = _STEPS[args.problem]
    try:
        import torch  # noqa: F401
        from tqdm import tqdm  # noqa: F401
    except ModuleNotFoundError as error:
        return _fail(f"{error.name} is not installed: pip install 'classp_jax[verify]'")
    from classp_jax.verify._torch_optimizer import InputError

    try:
        with jax.enable_x64(args.dtype == "float64"):
            return _verify(args)
    except (InputError, MemoryError, OSError) as error:
        return _fail(str(error))


def _verify(args: argparse.Namespace) -> int:
    from classp_jax.verify import _limits, _report, _run

    if args.plot:
        _report.check_plot(args.plot)
    target = _run.target(args)
    schedule = _run.schedule_of(args, target)
    problem = _problem(args, target, schedule)
    comparison, schedule, uses_first_group = _run.run(args, target, schedule, problem)

    title = (
        f"{args.reading}{''.join(f', {name},' for name in target.static)} against"
        f" {args.torch_optimizer or 'the PyTorch reference'}, {args.problem},"
        f" {args.mode}, {args.dtype}, {args.steps} step{'s' * (args.steps > 1)};"
        f" decay {_report.spans(schedule[0]['apply_decay'])}"
    )
    print(f"{title}\n\n{_report.table(comparison)}\n")
    print("rel and ULP: by the larger of the value and its tensor's root mean square")
    for note in _report.notes(comparison, _run.accumulators_of(args)):
        print(note)
    faults = list(comparison.faults)
    if uses_first_group:
        note = "it uses the first parameter group's values for all groups"
        if args.reading == "released":
            print(f"As the released class, {note}.")
        else:
            faults.insert(0, note)
    agrees = comparison.moved and not faults and not comparison.over_tolerance
    if args.json:
        settings = {
            k: str(v) if isinstance(v, pathlib.Path) else v
            for k, v in vars(args).items()
        }
        settings["schedule"] = schedule
        _report.save_json(comparison, agrees, settings, args.json)
    if args.plot:
        _report.save_plot(comparison, title, args.plot)
    if not comparison.moved and not faults:
        return _fail("no weight moved, so nothing was compared: lower --threshold")
    if not agrees:
        for line in [*faults, *_report.over(comparison)]:
            print(f"DIFFERENT: {line}")
        if args.mode == "free-running" and args.problem != "random" and not faults:
            print(textwrap.fill(_OWN_GRADIENTS, 80))
        return 1
    bounds = _report.bounds(comparison)
    print(f"AGREE: every difference is within {bounds}, at every step")
    has_stream = problem.stream is not None and args.mode == "lockstep"
    limits = _limits.limits(
        schedule,
        sizes=_sizes(args, schedule)[0] if has_stream else None,
        finite=target.finite,
        has_accumulators=bool(comparison.accumulators),
        bounds=bounds,
        untouched=target.arguments.untouched if args.torch_optimizer else (),
    )
    print(textwrap.fill(f"This run can't tell: {'; '.join(limits)}.", 80))
    return 0


def _problem(args: argparse.Namespace, target: Target, schedule: Schedule) -> Problem:
    from classp_jax.verify import _problems as problems

    dtype = np.dtype(args.dtype).type
    if args.problem == "cnn":
        return problems.cnn_problem(args.seed, dtype)
    if args.problem == "transformer":
        return problems.transformer_problem(args.seed, dtype)
    thresholds = sorted({t for group in schedule for t in group["threshold"]})
    return problems.random_problem(
        args.seed,
        args.steps,
        thresholds,
        _sizes(args, schedule),
        dtype,
        finite=target.finite,
        outputs_first=target.reading.outputs_first,
    )


def _sizes(args: argparse.Namespace, schedule: Schedule) -> list[tuple[float, float]]:
    from classp_jax.verify._streams import sizes

    powers = [max(group.get("power", [0])) for group in schedule]
    return [sizes(power or None, np.dtype(args.dtype)) for power in powers]


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=29, width=80)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == argparse.ONE_OR_MORE:
            return f"{action.metavar or default_metavar} ..."
        return super()._format_args(action, default_metavar)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.exit(_fail(message))


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m classp_jax.verify",
        usage="%(prog)s [OPTION ...]",
        description=(
            "Steps CLASSP in JAX and in PyTorch side by side, and shows how far weights"
            " and sums differ. Hyperparameters vary along the steps unless given. Exit"
            " code 0: they agree, 1: they differ, 2: it can't be run. Steps count from"
            " 1."
        ),
        formatter_class=_HelpFormatter,
    )
    add = parser.add_argument

    def add_choice(name: str, metavar: str, choices: list[str]) -> None:
        text = f"{choices[0]} (default), {', '.join(choices[1:])}"
        add(name, choices=choices, default=choices[0], metavar=metavar, help=text)

    readings = ["algorithm1", "equation1", "released", "gram"]
    add_choice("--reading", "NAME", readings)
    problems = ["random", "cnn", "transformer"]
    add_choice("--problem", "NAME", problems)
    add_choice("--mode", "NAME", ["lockstep", "free-running"])
    dtypes = ["float32", "float64", "float16", "bfloat16"]
    add_choice("--dtype", "DTYPE", dtypes)
    add("--steps", type=_positive_int, metavar="N", help="default: 100, on a model 20")
    add(
        "--decay-from",
        type=_natural_int,
        metavar="STEP",
        help="decay on from here (default: on and off twice)",
    )
    add("--seed", type=_natural_int, default=0, metavar="N", help="default: 0")
    add(
        "--power",
        type=_positive_float,
        metavar="P",
        help="default: 2, 1 and 1.5 or 2 by group, on a model 1",
    )
    for name in ("learning-rate", "threshold", "eps", "damping"):
        add(
            f"--{name}",
            type=_not_negative_float if name == "threshold" else _positive_float,
            nargs="+",
            action=_OneOrTwo,
            metavar="X",
            help={
                "learning-rate": "one value, or two: decay off, decay on",
                "damping": "likewise, of gram in place of eps",
            }.get(name, "likewise"),
        )
    add(
        "--exponent",
        type=_positive_float,
        metavar="Q",
        help="of gram (default: 1, 0.5, 2 by group, on a model 1)",
    )
    add(
        "--refresh-every",
        type=_positive_int,
        metavar="N",
        help="steps, of gram (default: 3, on a model 10)",
    )
    add("--relative", action="store_true", help="threshold by the tensor's mean square")
    add("--factored", action="store_true", help="only the sums of rows and columns")
    add("--memory", type=_memory, metavar="N", help="steps that a sum keeps")
    add(
        "--tolerance",
        type=_positive_float,
        metavar="X",
        help="largest relative difference (default: see table)",
    )
    add("--json", type=pathlib.Path, metavar="FILE", help="write all figures")
    add("--plot", type=pathlib.Path, metavar="FILE", help="draw ULP by step")
    theirs = parser.add_argument_group(
        "your own PyTorch optimizer",
        "Its arguments lr, threshold, eps or epsilon, damping, power, exponent,"
        " refresh_every, apply_decay or apply_scaling follow these unless given.",
    )
    theirs.add_argument(
        "--torch-optimizer",
        metavar="CLASS",
        help="FILE.py:NAME or MODULE:NAME; the file is run",
    )
    for option, where in (("args", "the class"), ("step-args", "step()")):
        theirs.add_argument(
            f"--torch-{option}",
            nargs="+",
            default=[],
            metavar="A=X",
            help=f"of {where}; A=X,Y: X decay off, Y decay on",
        )
    theirs.add_argument(
        "--torch-accumulator",
        metavar="KEY",
        help="of its sum (default: grad_sum, sum, gram)",
    )
    return parser


class _OneOrTwo(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if len(values) > 2:
            parser.error(f"{option_string} takes one value or two, got {len(values)}")
        setattr(namespace, self.dest, values)


def _natural_int(text: str) -> int:
    return _checked(int(text), 0 <= int(text) < 2**31, "0 or more, below 2**31")


def _positive_int(text: str) -> int:
    value = _checked(int(text), int(text) >= 1, "1 or more")
    return _checked(value, value < 2**31, "below 2**31")


def _not_negative_float(text: str) -> float:
    return _checked(float(text), 0 <= float(text) < math.inf, "finite, 0 or more")


def _positive_float(text: str) -> float:
    is_right = SMALLEST <= float(text) <= LARGEST
    return _checked(float(text), is_right, "finite and above 0, in float32")


def _memory(text: str) -> float:
    return _checked(float(text), 1 < float(text) <= LARGEST, "above 1, in float32")


def _checked(value: _Number, is_right: bool, what: str) -> _Number:
    if not is_right:
        raise argparse.ArgumentTypeError(f"must be {what}, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
