"""Command-line arguments, with errors that say what is allowed."""

import argparse
import contextlib
import difflib
import math
import pathlib
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator

import jax

from examples import rows, sharding
from examples.checkpoints import (
    AT_ONCE,
    CheckpointError,
    Preempted,
    Saving,
    Sigterm,
)
from examples.continual import Runner
from examples.methods import Method
from examples.runner.data import Experiment
from examples.study import Study, families


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to each option's help, unless there is none; cuts no word."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None:
            return action.help
        return super()._get_help_string(action)

    def _split_lines(self, text: str, width: int) -> list[str]:
        # Names of methods stay whole.
        text = " ".join(text.split())
        return textwrap.wrap(
            text, width, break_on_hyphens=False, break_long_words=False
        )


def of_experiment(
    study: Study, description: str, examples: str, batch_size: int
) -> argparse.ArgumentParser:
    """The options that all experiments have.

    Args:
      study: what is compared.
      description: of the command.
      examples: what a batch has.
      batch_size: the default.

    Returns:
      A parser, to add others to.
    """
    name, methods = study.experiment, study.methods
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{name}",
        description=(
            f"{description} and writes a row of results a method and seed; a second"
            f" call goes on where the first stopped. python -m examples.{name}.report"
            " makes the tables and figures alone."
        ),
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        type=_one_of([*study.groups, *methods]),
        default=[next(iter(study.groups))],
        metavar="METHOD",
        help="which to train: the groups "
        + "; ".join(f"{group} ({len(of)})" for group, of in study.groups.items())
        + "; or single ones, of "
        + ", ".join(families(methods)),
    )
    parser.add_argument(
        "--seeds",
        type=positive_int,
        default=10,
        metavar="N",
        help=f"seeds 0 to N - 1: of the weights, the order of the {examples}, the"
        " dropout",
    )
    parser.add_argument(
        "--data-dir",
        type=pathlib.Path,
        help="TFDS's folder of data sets; what's missing and free to download is"
        " downloaded (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path(f"out/{name}"),
        help="folder for rows.jsonl, tables and figures",
    )
    parser.add_argument(
        "--checkpoint-dir",
        type=pathlib.Path,
        help="folder of checkpoints (default: checkpoints in --out)",
    )
    parser.add_argument(
        "--save-every",
        type=positive_int,
        default=500,
        metavar="STEPS",
        help="steps between two checkpoints of a phase; SIGTERM and Ctrl-C make one and"
        " stop",
    )
    parser.add_argument(
        "--keep",
        type=positive_int,
        default=2,
        metavar="N",
        help="how many checkpoints of a phase are kept while it is trained",
    )
    parser.add_argument(
        "--vmap-seeds",
        type=positive_int,
        metavar="N",
        help="how many seeds train side by side in one program (default: 1 on a CPU,"
        " all elsewhere)",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of the weights and activations; what CLASSP collects is float32",
    )
    parser.add_argument(
        "--mesh",
        nargs="+",
        type=sharding.axis,
        metavar="AXIS=N",
        help="train on N devices: data=N cuts each batch among them, model=N the large"
        " weights; with both, on as many as their product",
    )
    parser.add_argument(
        "--distributed",
        nargs="*",
        metavar=("HOST:PORT", "COUNT ID"),
        help="train together with other processes, started likewise: on a TPU slice and"
        " under Slurm they find each other, elsewhere give the first one's address, how"
        " many there are and which this is, from 0 on; --out must be shared",
    )
    parser.add_argument(
        "--evaluate-with-dropout",
        action="store_true",
        help="draw the figures from accuracies with dropout left on, as the paper's"
        " code measured them; the rows have both",
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=batch_size, help=f"{examples} a step"
    )
    return parser


def devices(args: argparse.Namespace) -> jax.sharding.Mesh | None:
    """The devices that an experiment's options name; JAX mustn't have started before.

    Raises:
      ValueError: they don't fit what there is.
    """
    if args.distributed is not None:
        if len(args.distributed) not in (0, 3):
            raise ValueError("--distributed takes HOST:PORT, COUNT and ID, or none")
        address = args.distributed[:1]
        try:
            jax.distributed.initialize(*address, *map(int, args.distributed[1:]))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"--distributed: {error}") from error
    return sharding.make_mesh(args.mesh)


def of_report(study: Study, description: str) -> argparse.ArgumentParser:
    """The options that all reports have.

    Args:
      study: what was compared.
      description: of the command.

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
        help="holds rows.jsonl; the tables and figures are written there",
    )
    parser.add_argument(
        "--evaluate-with-dropout",
        action="store_true",
        help="draw the figures from the accuracies with dropout left on, as files"
        " named *_with_dropout.png",
    )
    return parser


def saving(args: argparse.Namespace) -> Saving:
    """Where and how often an experiment is saved."""
    folder = args.checkpoint_dir or args.out / "checkpoints"
    return Saving(folder, args.save_every, args.keep)


@contextlib.contextmanager
def until_stopped(
    parser: argparse.ArgumentParser, argv: list[str] | None, again: str = "go on"
) -> Iterator[Sigterm]:
    """Ends a command in a line: at a signal, or where a file can't be used or written.

    SIGTERM and Ctrl-C end it with exit code 0, a second Ctrl-C with 130.

    Args:
      parser: the command's.
      argv: its arguments, None for those of the process.
      again: what the same command does once more.

    Yields:
      The signal, which the command should look out for.
    """
    try:
        with Sigterm() as sigterm:
            yield sigterm
    except Preempted as stop:
        command = f"{parser.prog} {shlex.join(sys.argv[1:] if argv is None else argv)}"
        once = " at once" * stop.at_once
        parser.exit(
            AT_ONCE if stop.at_once else 0,
            f"Stopped{once} by {stop}; to {again}: {command.strip()}\n",
        )
    except (CheckpointError, OSError) as error:
        parser.exit(1, f"{parser.prog}: error: {' '.join(str(error).split())}\n")


def command(
    parser: argparse.ArgumentParser,
    argv: list[str] | None,
    train: Callable[[argparse.ArgumentParser, argparse.Namespace, Sigterm], None],
) -> None:
    """Does what the command line of an experiment says.

    Products are of whole float32 numbers on every device, as on a CPU and as PyTorch
    has them, unless ``JAX_DEFAULT_MATMUL_PRECISION`` says otherwise.

    Args:
      parser: the command's.
      argv: its arguments, None for those of the process.
      train: what it does, with its parser, its options and the signal to look out for.
    """
    args = parser.parse_args(argv)
    precision = jax.config.jax_default_matmul_precision or "float32"
    with (
        until_stopped(parser, argv) as sigterm,
        jax.default_matmul_precision(precision),
    ):
        train(parser, args, sigterm)


def prepared(args: argparse.Namespace) -> jax.sharding.Mesh | None:
    """Makes ``--out`` and gives the devices, before anything that takes long.

    Raises:
      ValueError: the devices don't fit what there is, or the rows there are damaged.
      OSError: the folder can't be made or read.
    """
    mesh = devices(args)
    args.out.mkdir(parents=True, exist_ok=True)
    rows.read(args.out / "rows.jsonl")
    return mesh


def run(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    experiment: Experiment,
    methods: dict[str, Method],
    mesh: jax.sharding.Mesh | None,
    sigterm: Sigterm,
) -> None:
    """Trains methods as the options of :func:`of_experiment` say.

    Args:
      parser: the command's, for what is wrong with an option.
      args: the options.
      experiment: the model and the tasks.
      methods: those to train, by their names.
      mesh: from :func:`prepared`.
      sigterm: from :func:`until_stopped`.
    """
    fewest = min(len(task.train.labels) for task in experiment.tasks.values())
    if args.batch_size > fewest:
        parser.error(f"--batch-size must be at most {fewest}, a task's examples")
    on_cpu = jax.default_backend() == "cpu"
    vmap_seeds = args.vmap_seeds or (1 if on_cpu else args.seeds)
    runner = Runner(experiment, args.out, vmap_seeds, saving(args), sigterm, mesh)
    for name, method in methods.items():
        runner.run(name, method, range(args.seeds))


def chosen(study: Study, names: list[str]) -> dict[str, Method]:
    """The methods of some names, of groups or their own."""
    found = {}
    for name in names:
        found |= study.groups.get(name) or {name: study.methods[name]}
    return found


def _one_of(names: list[str]) -> Callable[[str], str]:
    """One of more names than an error should list."""

    def of(text: str) -> str:
        if text in names:
            return text
        close = ", ".join(difflib.get_close_matches(text, names)) or "none is close"
        raise argparse.ArgumentTypeError(
            f"invalid choice: {text!r} (closest: {close}; --help lists all)"
        )

    return of


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
