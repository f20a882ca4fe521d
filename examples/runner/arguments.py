"""Command-line arguments, with errors that say what is allowed."""

import argparse
import difflib
import math
import pathlib
import textwrap
from collections.abc import Callable

from examples.runner import sharding
from examples.runner.method_list import ListMethods
from examples.runner.study import Study


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Fits 80 columns, names the defaults that say something, and cuts no word."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28, width=80)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == argparse.ONE_OR_MORE:
            return f"{action.metavar or default_metavar} ..."
        if action.nargs == argparse.ZERO_OR_MORE and action.metavar:
            return f"[{action.metavar} ...]"
        return super()._format_args(action, default_metavar)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool):
            return action.help
        if isinstance(action.default, list) and "%(default)" not in (action.help or ""):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)

    def _split_lines(self, text: str, width: int) -> list[str]:
        text = " ".join(text.split())  # Names of methods stay whole.
        return textwrap.wrap(
            text, width, break_on_hyphens=False, break_long_words=False
        )


USAGE = "%(prog)s [OPTION ...]"
"""Of a command whose options the help lists below."""


def of_experiment(
    study: Study,
    description: str,
    examples: str,
    batch_size: int,
    default: list[str] | None = None,
    *,
    tfds: bool = True,
    dropout: bool = True,
) -> argparse.ArgumentParser:
    """The options that all experiments have.

    Args:
      study: what is compared.
      description: of the command.
      examples: what a batch has.
      batch_size: the default.
      default: the methods trained where none are named; by default the first group.
      tfds: whether the data are TFDS's, in a folder that an option names.
      dropout: whether the model has any.

    Returns:
      A parser, to add others to.
    """
    name, methods = study.experiment, study.methods
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{name}",
        usage=USAGE,
        description=f"{description}. Writes a row per method and seed, then"
        " the table. The same command goes on where it stopped.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        type=_one_of([*study.groups, *methods]),
        default=default or [next(iter(study.groups))],
        metavar="METHOD",
        help="what to train: names that --list-methods lists",
    )
    parser.add_argument(
        "--list-methods",
        action=ListMethods,
        nargs=0,
        study=study,
        help="print all methods and groups of methods, and stop",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be trained and for how many steps",
    )
    add_seeds(parser, 10)
    if tfds:
        parser.add_argument(
            "--data-dir",
            type=pathlib.Path,
            metavar="FOLDER",
            help="of TFDS; what is missing is downloaded (default: $TFDS_DATA_DIR or"
            " ~/tensorflow_datasets)",
        )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path(f"out/{name}"),
        metavar="FOLDER",
        help="for rows, tables and figures",
    )
    parser.add_argument(
        "--checkpoint-dir",
        type=pathlib.Path,
        metavar="FOLDER",
        help="for checkpoints (default: checkpoints in --out)",
    )
    parser.add_argument(
        "--save-every",
        type=positive_int,
        default=500,
        metavar="STEPS",
        help="steps between two checkpoints",
    )
    parser.add_argument(
        "--keep", type=positive_int, default=2, metavar="N", help="checkpoints kept"
    )
    parser.add_argument(
        "--vmap-seeds",
        type=positive_int,
        metavar="N",
        help="seeds per program (default: 1 on a CPU, else all)",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        metavar="NAME",
        help="of weights: float32, bfloat16",
    )
    parser.add_argument(
        "--mesh",
        nargs="+",
        type=sharding.axis,
        metavar="AXIS=N",
        help="devices: data=N cuts batches, model=N large weights",
    )
    parser.add_argument(
        "--distributed",
        nargs="*",
        metavar="X",
        help="join others: HOST:PORT COUNT ID; Slurm, TPUs: none",
    )
    if dropout:
        parser.add_argument(
            "--evaluate-with-dropout",
            action="store_true",
            help="draw accuracies measured with dropout on",
        )
    else:
        parser.set_defaults(evaluate_with_dropout=False)
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=batch_size,
        metavar="N",
        help=f"{examples} per step",
    )
    return parser


def add_seeds(parser: argparse.ArgumentParser, count: int) -> None:
    """Adds ``--seeds`` and ``--seed``, which mean the same to every command.

    Args:
      parser: of the command.
      count: of the seeds, by default.
    """
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--seeds",
        type=_count_of_seeds,
        default=count,
        metavar="N",
        help="train with the seeds 0 to N - 1",
    )
    which.add_argument(
        "--seed",
        nargs="+",
        type=natural_int,
        metavar="S",
        help="train with these seeds instead",
    )


def seeds(args: argparse.Namespace) -> list[int]:
    """The seeds that the options of :func:`add_seeds` name, each once."""
    return list(dict.fromkeys(args.seed or range(args.seeds)))


def of_report(
    study: Study, description: str, *, dropout: bool = True
) -> argparse.ArgumentParser:
    """The options that all reports have.

    Args:
      study: what was compared.
      description: of the command.
      dropout: whether the model has any.

    Returns:
      A parser, to add others to.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{study.experiment}.report",
        description=description,
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=pathlib.Path,
        default=pathlib.Path("out") / study.experiment,
        help="holds rows.jsonl; tables and figures are written there",
    )
    if dropout:
        parser.add_argument(
            "--evaluate-with-dropout",
            action="store_true",
            help="draw accuracies measured with dropout on, in *_with_dropout.png",
        )
    parser.add_argument(
        "--no-figures",
        dest="figures",
        action="store_false",
        help="write tables only",
    )
    return parser


def _one_of(names: list[str]) -> Callable[[str], str]:
    """One of more names than an error should list."""

    def of(text: str) -> str:
        if text in names:
            return text
        close = ", ".join(difflib.get_close_matches(text, names)) or "none is close"
        raise argparse.ArgumentTypeError(
            f"invalid choice: {text!r} (closest: {close}; --list-methods lists all)"
        )

    return of


def _count_of_seeds(text: str) -> int:
    """An integer from 1 on, of seeds below 2**31."""
    if positive_int(text) > 2**31:
        raise argparse.ArgumentTypeError(f"must be at most 2**31, got {text}")
    return int(text)


def natural_int(text: str) -> int:
    """An integer from 0 on that a random seed may be."""
    value = int(text)
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"must be 0 or more, below 2**31, got {text}")
    return value


def positive_int(text: str) -> int:
    """An integer from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be finite and above 0, got {text}")
    return value
