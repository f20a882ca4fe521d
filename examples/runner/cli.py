"""What the commands of the experiments do with their arguments."""

import argparse
import contextlib
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import jax

from examples.datasets.tfds import DatasetError
from examples.runner import arguments, rows, sharding
from examples.runner.checkpoints import CheckpointError, Saving
from examples.runner.data import Experiment
from examples.runner.dry_run import describe
from examples.runner.plan import Method
from examples.runner.run import Runner
from examples.runner.stopping import AT_ONCE, Preempted, Sigterm
from examples.runner.study import Study


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


def saving(args: argparse.Namespace) -> Saving:
    """Where and how often an experiment is saved."""
    folder = args.checkpoint_dir or args.out / "checkpoints"
    return Saving(folder, args.save_every, args.keep)


@contextlib.contextmanager
def until_stopped(
    parser: argparse.ArgumentParser, argv: list[str] | None, again: str = "go on"
) -> Iterator[Sigterm]:
    """Ends a command in a line: at a signal, or where a file can't be read or written.

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
    except (CheckpointError, DatasetError, OSError) as error:
        parser.exit(1, f"{parser.prog}: error: {' '.join(str(error).split())}\n")


def command(
    parser: argparse.ArgumentParser,
    argv: list[str] | None,
    train: Callable[[argparse.ArgumentParser, argparse.Namespace, Sigterm], None],
    again: str = "go on",
) -> None:
    """Does what the command line of an experiment says.

    Products are of whole float32 numbers on every device, as on a CPU and as PyTorch
    has them, unless ``JAX_DEFAULT_MATMUL_PRECISION`` says otherwise.

    Args:
      parser: the command's.
      argv: its arguments, None for those of the process.
      train: what it does, with its parser, its options and the signal to look out for.
      again: as :func:`until_stopped` takes it.
    """
    args = parser.parse_args(argv)
    set_by_user = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    precision = set_by_user or "float32"
    with (
        until_stopped(parser, argv, again) as sigterm,
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
    if not args.dry_run:
        args.out.mkdir(parents=True, exist_ok=True)
    rows.read(args.out / "rows.jsonl")
    return mesh


class Report(Protocol):
    """Makes the tables and figures of a folder's rows, as ``report.write`` does."""

    def __call__(
        self,
        folder: pathlib.Path,
        settings: dict[str, Any],
        *,
        with_dropout: bool,
        methods: Iterable[str],
    ) -> None:
        """Writes them, and prints where."""


def run(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    experiment: Experiment,
    methods: dict[str, Method],
    mesh: jax.sharding.Mesh | None,
    sigterm: Sigterm,
    report: Report,
) -> None:
    """Trains methods as the options of an experiment say, and makes its report.

    Args:
      parser: the command's, for what is wrong with an option.
      args: the options.
      experiment: the model and the tasks.
      methods: those to train, by their names.
      mesh: from :func:`prepared`.
      sigterm: from :func:`until_stopped`.
      report: makes the tables and figures.
    """
    fewest = min(len(task.train.labels) for task in experiment.tasks.values())
    if args.batch_size > fewest:
        parser.error(f"--batch-size must be at most {fewest}, a task's examples")
    seeds = arguments.seeds(args)
    try:
        if args.dry_run:
            path = args.out / "rows.jsonl"
            print("\n".join(describe(experiment, methods, seeds, path)))
            return
        on_cpu = jax.default_backend() == "cpu"
        vmap_seeds = args.vmap_seeds or (1 if on_cpu else len(seeds))
        runner = Runner(experiment, args.out, vmap_seeds, saving(args), sigterm, mesh)
    except (TypeError, ValueError) as error:  # Of the data, the model or a method.
        parser.error(str(error))
    for name, method in methods.items():
        runner.run(name, method, seeds)
    if sharding.is_first_process():
        report(
            args.out,
            experiment.settings,
            with_dropout=args.evaluate_with_dropout,
            methods=methods,
        )


def chosen(study: Study, names: list[str]) -> dict[str, Method]:
    """The methods of some names, of groups or their own."""
    found: dict[str, Method] = {}
    for name in names:
        found |= study.groups.get(name) or {name: study.methods[name]}
    return found
