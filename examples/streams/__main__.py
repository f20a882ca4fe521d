"""Command line of the streams of tasks: ``python -m examples.streams``."""

import argparse
import functools
import pathlib

from examples.datasets.stream import SCENARIOS, Stream, benchmarks
from examples.datasets.tfds import DatasetError
from examples.models.registry import models
from examples.report import tables
from examples.runner import arguments, cli
from examples.runner.data import Experiment
from examples.runner.losses import LOSSES
from examples.runner.plan import Method
from examples.runner.stopping import Sigterm
from examples.runner.study import Study
from examples.streams import report
from examples.streams.study import study
from examples.streams.tables import lacks

_CURVE = ("test", 500)
_DEFAULT = "permuted_mnist"
_BATCH_SIZE = 64
_LOSS = next(iter(LOSSES))
# Their settings were chosen in results/streams/permuted_mnist/domain-mlp/validation.
_METHODS = ["classp_0.1", "sgd_0.02", "ewc_online_30"]


def main(argv: list[str] | None = None) -> None:
    """Trains what has no row yet, then makes the tables and figures of all rows."""
    cli.command(_parser(), argv, _run)


def _run(
    parser: argparse.ArgumentParser, args: argparse.Namespace, sigterm: Sigterm
) -> None:
    stream = _stream(parser, args)
    if args.batch_size < 2:
        parser.error("--batch-size must be 2 or more, as replay takes half of it")
    if args.loss != _LOSS and stream.scenario != "class":
        parser.error(f"--loss {args.loss} is for --scenario class")
    # Rows of the default have none.
    of_loss = {"loss": args.loss} if args.loss != _LOSS else {}
    compared = study(stream, args.epochs, args.batch_size)
    try:
        mesh = cli.prepared(args)
        methods = cli.chosen(compared, args.methods)
        if args.best_in:
            methods = _best(compared, methods, args.best_in)
        tasks = stream.load(args.data_dir, stored=args.from_disk)
    except (DatasetError, OSError, ValueError) as error:
        parser.error(str(error))
    experiment = Experiment(
        "streams",
        functools.partial(
            models()[args.model].make,
            classes=stream.outputs,
            shape=stream.definition.shape,
        ),
        stream.definition.preprocess,
        tasks,
        args.batch_size,
        _CURVE,
        stream._asdict() | {"model": args.model, "epochs": args.epochs} | of_loss,
        args.dtype,
        stream.heads,
        stream.tasks_of_classes if of_loss else None,
        measurements=2,
        splits=("test",),
        measure_unseen=True,
    )
    cli.run(parser, args, experiment, methods, mesh, sigterm, report.write)


def _stream(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Stream:
    benchmark = benchmarks()[args.benchmark]
    scenario = args.scenario or benchmark.scenarios[0]
    if scenario not in benchmark.scenarios:
        parser.error(
            f"--scenario of {args.benchmark} must be {' or '.join(benchmark.scenarios)}"
        )
    count = args.tasks or benchmark.tasks
    if not 2 <= count <= benchmark.tasks:
        parser.error(f"--tasks of {args.benchmark} must be 2 to {benchmark.tasks}")
    return Stream(
        args.benchmark, scenario, count, args.stream_seed, validation=args.validation
    )


def _best(
    compared: Study, methods: dict[str, Method], folder: pathlib.Path
) -> dict[str, Method]:
    """Of each front those with the setting that is best in a folder's rows.

    Raises:
      ValueError: the folder has no rows, or none of a front that is to be trained, or
        those of its settings aren't of the same seeds.
    """
    there, found = report.read(folder)
    best = {}
    for front, of in zip(compared.fronts, there.fronts, strict=True):
        if front.methods.keys() & methods.keys():
            if not of.methods.keys() & found.keys():
                raise ValueError(f"--best-in: {folder} has no rows of {of.title}")
            if lacking := lacks(of, found):
                raise ValueError(f"--best-in: {folder} can't be compared: {lacking}")
            name = tables.best(there, of, found)
            best[name] = front.methods[name]
    return best


def _parser() -> argparse.ArgumentParser:
    known = benchmarks()
    of = known[_DEFAULT]
    default = Stream(_DEFAULT, of.scenarios[0], of.tasks)
    what = "Trains a network on a stream of tasks, one after the other"
    parser = arguments.of_experiment(
        study(default, 1, _BATCH_SIZE), what, "images", _BATCH_SIZE, _METHODS
    )
    parser.add_argument(
        "--benchmark",
        choices=known,
        default=_DEFAULT,
        metavar="NAME",
        help=", ".join(sorted(known)),
    )
    parser.add_argument(
        "--scenario",
        choices=SCENARIOS,
        metavar="NAME",
        help=f"{', '.join(SCENARIOS)} (default: the stream's own)",
    )
    parser.add_argument(
        "--tasks",
        type=arguments.positive_int,
        metavar="N",
        help="only the first N tasks of the stream (default: all)",
    )
    parser.add_argument(
        "--epochs",
        type=arguments.positive_int,
        default=1,
        metavar="N",
        help="per task",
    )
    parser.add_argument(
        "--model",
        choices=models(),
        default="mlp",
        metavar="NAME",
        help=", ".join(models()),
    )
    parser.add_argument(
        "--loss",
        choices=LOSSES,
        default=_LOSS,
        help="over all or present classes",
    )
    parser.add_argument(
        "--stream-seed",
        type=arguments.natural_int,
        default=0,
        metavar="S",
        help="of permutations, angles, class order",
    )
    parser.add_argument(
        "--validation",
        action="store_true",
        help="measure on a tenth of the training set, held out",
    )
    parser.add_argument(
        "--from-disk",
        action="store_true",
        help="read images during training, as more than fit memory",
    )
    parser.add_argument(
        "--best-in",
        type=pathlib.Path,
        metavar="FOLDER",
        help="train only the settings best in its rows",
    )
    return parser


if __name__ == "__main__":
    main()
