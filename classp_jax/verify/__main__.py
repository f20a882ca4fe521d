"""Command line of the verification: ``python -m classp_jax.verify``."""

from __future__ import annotations

import argparse
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import jax
import numpy as np

from classp_jax._hyperparameters import LARGEST, SMALLEST

if TYPE_CHECKING:
    from classp_jax.verify._problems import Problem

_Number = TypeVar("_Number", int, float)
_HYPERPARAMETERS = ("learning_rate", "threshold", "eps")
# 0.25 has an exact root, which the gradient streams hit, and an eps of 0.01 is large
# enough for its place in the formula to show. On the models a threshold makes two
# correct runs jump apart wherever a gradient is close to it, and so does Equation 1
# with a small eps, where a weight without history meets its first gradient.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "random": dict(steps=100, learning_rate=[0.1], threshold=[0.25], eps=[0.01]),
    "cnn": dict(steps=20, learning_rate=[0.01], threshold=[0.0], eps=[0.1]),
    "transformer": dict(steps=20, learning_rate=[0.01], threshold=[0.0], eps=[0.1]),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Compares JAX with PyTorch; 0 if they agree, 1 if not, 2 if it can't be run."""
    args = _parser().parse_args(argv)
    for name, default in _DEFAULTS[args.problem].items():
        if getattr(args, name) is None:
            setattr(args, name, default)
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
    from tqdm import tqdm

    from classp_jax.verify import _compare, _report, reference
    from classp_jax.verify import _problems as problems
    from classp_jax.verify import _torch_optimizer as torch_optimizer

    if args.plot:
        _report.check_plot(args.plot)
    static = {"power": args.power}
    if args.factored:
        if args.reading == "released":
            return _fail("the released reading keeps its sum in full: no --factored")
        static["factored"] = True
    decay_from = args.steps // 2 if args.decay_from is None else args.decay_from
    lockstep = args.mode == "lockstep"
    tolerance = _tolerance(args) if args.tolerance is None else args.tolerance
    options = {
        name: (getattr(args, name)[0], getattr(args, name)[-1])
        for name in _HYPERPARAMETERS
    }
    options["apply_decay"] = (decay_from == 0, decay_from < args.steps)
    constructor = torch_optimizer.parse_arguments("--torch-args", args.torch_args)
    step = torch_optimizer.parse_arguments("--torch-step-args", args.torch_step_args)
    optimizer_class: Any = reference.Classp
    if args.torch_optimizer:
        optimizer_class = torch_optimizer.load_class(args.torch_optimizer)
    else:
        of_reference = {"reading": args.reading, "factored": args.factored}
        constructor = {k: (v, v) for k, v in of_reference.items()} | constructor

    problem = _problem(args, options["threshold"])
    twin = problems.plain_twin(problem.params) if lockstep else problem.twin()
    optimizer = torch_optimizer.PhasedOptimizer(
        optimizer_class,
        twin.parameters.values(),
        {**options, "power": (args.power,) * 2},
        constructor,
        step,
    )
    comparison = _compare.compare(
        problem,
        twin,
        optimizer,
        reading=args.reading,
        static=static,
        hyperparameters=tuple(
            {name: values[phase] for name, values in options.items()}
            for phase in (0, 1)
        ),
        lockstep=lockstep,
        steps=tqdm(range(args.steps), unit="step", leave=False, disable=None),
        decay_from=decay_from,
        accumulator=args.torch_accumulator,
        tolerance=tolerance,
    )

    title = (
        f"{args.reading}{', factored,' * args.factored} against"
        f" {args.torch_optimizer or 'the PyTorch reference'}, {args.problem},"
        f" {args.mode}, {args.dtype}, {args.steps} steps"
    )
    print(f"{title}; decay from step {decay_from + 1}\n\n{_report.table(comparison)}\n")
    print("rel and ULP: by the larger of the value and its tensor's root mean square")
    if not comparison.accumulators:
        print(
            f"The PyTorch optimizer has no {args.torch_accumulator!r} in its state:"
            " the weights alone are compared (--torch-accumulator KEY)."
        )
    if args.json:
        settings = {
            k: str(v) if isinstance(v, pathlib.Path) else v
            for k, v in vars(args).items()
        }
        settings |= {"decay_from": decay_from, "tolerance": tolerance}
        _report.save_json(comparison, settings, args.json)
    if args.plot:
        _report.save_plot(comparison, title, args.plot)
    if not comparison.moved:
        return _fail("no weight moved, so nothing was compared: lower --threshold")
    over = _report.first_over(comparison)
    if over:
        print(f"DIFFERENT: {over[1]} is over {tolerance:g} from step {over[0]} on")
        return 1
    if args.power == 1:
        print("With p = 1 a power or an eps out of place can't show: see --power 2.")
    print(f"AGREE: every difference is within {tolerance:g} at every step")
    return 0


def _problem(args: argparse.Namespace, thresholds: tuple[float, float]) -> Problem:
    from classp_jax.verify import _problems as problems

    dtype = np.dtype(args.dtype).type
    if args.problem == "cnn":
        return problems.cnn_problem(args.seed, dtype)
    if args.problem == "transformer":
        return problems.transformer_problem(args.seed, dtype)
    return problems.random_problem(args.seed, args.steps, thresholds, dtype)


def _tolerance(args: argparse.Namespace) -> float:
    if args.mode == "free-running":
        return 1e-3 if args.dtype == "float32" else 1e-10
    if args.dtype == "float64":
        return 1e-12
    return 1e-6 if args.power in (1, 2) else 1e-5


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.exit(_fail(message))


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m classp_jax.verify",
        description=(
            "Steps CLASSP in JAX and in PyTorch side by side, from the same weights,"
            " with the decay closed at first and then open, and shows how far weights"
            " and accumulators come apart. Exit code 0: they agree; 1: they differ; 2:"
            " the input can't be used."
        ),
    )
    parser.add_argument(
        "--reading",
        choices=["algorithm1", "equation1", "released"],
        default="algorithm1",
        help="of the paper, as JAX computes it (default: algorithm1)",
    )
    parser.add_argument(
        "--problem",
        choices=["random", "cnn", "transformer"],
        default="random",
        help="gradient streams that reach the corners (the default), or one of the"
        " paper's models",
    )
    parser.add_argument(
        "--mode",
        choices=["lockstep", "free-running"],
        default="lockstep",
        help="both get the same gradients (the default), or each computes its own",
    )
    parser.add_argument(
        "--steps", type=_positive_int, help=f"how many (default: {_defaults('steps')})"
    )
    parser.add_argument(
        "--decay-from",
        type=_natural_int,
        help="the step, from 0, at which the decay opens (default: half of --steps)",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "float64"],
        default="float32",
        help="of weights, gradients and accumulators (default: float32)",
    )
    parser.add_argument(
        "--seed",
        type=_natural_int,
        default=0,
        help="of weights, gradients and batches (default: 0)",
    )
    parser.add_argument(
        "--power", type=_positive_float, default=1.0, help="CLASSP's p (default: 1)"
    )
    parser.add_argument(
        "--factored",
        action="store_true",
        help="keep the sums of rows and columns alone",
    )
    for name in _HYPERPARAMETERS:
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=_not_negative_float if name == "threshold" else _positive_float,
            nargs="+",
            action=_OneOrTwo,
            metavar="VALUE",
            help="one value, or one while the decay is closed and one while open"
            f" (default: {_defaults(name)})",
        )
    parser.add_argument(
        "--tolerance",
        type=_positive_float,
        help="largest relative difference allowed (default: in lockstep 1e-12 in"
        " float64, 1e-6 in float32, 1e-5 where pow is called; free-running 1e-10 and"
        " 1e-3)",
    )
    theirs = parser.add_argument_group("your own PyTorch optimizer")
    theirs.add_argument(
        "--torch-optimizer",
        metavar="FILE.py:CLASS",
        help="compare with this class instead of the reference (its file is run)",
    )
    for option, where in (("args", "the constructor"), ("step-args", "step()")):
        theirs.add_argument(
            f"--torch-{option}",
            nargs="+",
            default=[],
            metavar="NAME=VALUE",
            help=f"arguments of {where}; NAME=A,B is A while the decay is closed and B"
            " while open. Those known by name (lr, threshold, eps or epsilon, power,"
            " apply_decay or apply_scaling) follow the options above unless given",
        )
    theirs.add_argument(
        "--torch-accumulator",
        metavar="KEY",
        default="grad_sum",
        help="of the accumulator in the optimizer's state (default: grad_sum)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=pathlib.Path, metavar="FILE", help="all figures")
    output.add_argument(
        "--plot", type=pathlib.Path, metavar="FILE", help="ULP differences over steps"
    )
    return parser


def _defaults(name: str) -> str:
    values = {problem: d[name] for problem, d in _DEFAULTS.items()}
    return ", ".join(
        f"{v[0] if isinstance(v, list) else v} on {k}" for k, v in values.items()
    )


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


def _checked(value: _Number, is_right: bool, what: str) -> _Number:
    if not is_right:
        raise argparse.ArgumentTypeError(f"must be {what}, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
