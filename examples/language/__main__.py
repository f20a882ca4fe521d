"""Command line of the language experiment: ``python -m examples.language``."""

import argparse
import functools
import pathlib
import zlib

import jax

from examples.datasets import byte_windows
from examples.language import report
from examples.language.study import LIKE, study
from examples.methods import checkpoint
from examples.models.decoder import Decoder
from examples.runner import arguments, cli
from examples.runner.data import Experiment, Task
from examples.runner.plan import Method
from examples.runner.stopping import Sigterm

_CURVE = ("test", 64)  # Windows.
_BATCH_SIZE = 16


def main(argv: list[str] | None = None) -> None:
    """Trains what has no row yet, then makes the table and figure of all rows."""
    cli.command(_parser(), argv, _run)


def _run(
    parser: argparse.ArgumentParser, args: argparse.Namespace, sigterm: Sigterm
) -> None:
    paths = dict(args.text)
    if len(paths) < len(args.text):
        parser.error("--text: each text must have a name of its own")
    if len(paths) < 2:
        parser.error("--text must name two texts or more, learned in their order")
    if args.width % (2 * args.heads):
        parser.error(f"--width must be a multiple of {2 * args.heads}, twice --heads")
    try:
        mesh = cli.prepared(args)
        tasks = byte_windows.load(
            paths, args.context, args.bytes, validation=args.validation
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    model = dict(width=args.width, layers=args.layers, heads=args.heads)
    of_data = {
        "context": args.context,
        "validation": args.validation,
        "texts": {name: zlib.crc32(path.read_bytes()) for name, path in paths.items()},
        **({"bytes": args.bytes} if args.bytes else {}),
    }
    experiment = Experiment(
        "language",
        functools.partial(Decoder, **model),
        as_they_are,
        tasks,
        args.batch_size,
        _CURVE,
        model | of_data | {"epochs": args.epochs},
        args.dtype,
        splits=("test",),
        measure_unseen=True,
        measure="bits",
    )
    compared = study(experiment.settings)
    chosen = cli.chosen(compared, args.methods)
    for name, method in chosen.items():
        _check(parser, args, name, method, tasks[next(iter(tasks))])
    cli.run(parser, args, experiment, chosen, mesh, sigterm, report.write)


def _check(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    name: str,
    method: Method,
    first: Task,
) -> None:
    """Refuses a method for which batches or the first text are too small."""
    plugins = [plugin for phase in method.phases for plugin in phase.plugins]
    replayed = max((plugin.examples_replayed() for plugin in plugins), default=0)
    if args.batch_size <= replayed:
        parser.error(
            f"--batch-size must be above {replayed}, as {name} replays so many"
        )
    fewest = checkpoint.BATCH
    if any(isinstance(p, checkpoint.Sums) for p in plugins) and (
        len(first.train.labels) < fewest
    ):
        parser.error(f"{name}: the first text must have {fewest} windows to train on")


def as_they_are(windows: jax.Array) -> jax.Array:
    """What the model takes: bytes."""
    return windows


def _parser() -> argparse.ArgumentParser:
    what = (
        "Trains a Transformer over bytes with AdamW on one text, then on others by"
        " several methods, which shall keep the first"
    )
    parser = arguments.of_experiment(
        study(LIKE), what, "windows", _BATCH_SIZE, tfds=False, dropout=False
    )
    parser.add_argument(
        "--text",
        nargs="+",
        required=True,
        type=_named_path,
        metavar="NAME=PATH",
        help="texts to learn in this order, what to call each and its file; the last"
        " tenth of each is held out",
    )
    parser.add_argument(
        "--bytes",
        nargs=2,
        type=arguments.positive_int,
        metavar=("FIRST", "LATER"),
        help="to train on of the first text, and of each later one (default: all but"
        " the last tenth)",
    )
    parser.add_argument(
        "--validation",
        action="store_true",
        help="measure on the twentieth before the last, not on the last",
    )
    parser.add_argument(
        "--epochs",
        nargs=2,
        type=arguments.positive_int,
        default=[1, 1],
        metavar=("FIRST", "LATER"),
        help="on the first text, and on each later one",
    )
    sizes = {
        "width": (128, "of the residual stream"),
        "layers": (4, "blocks"),
        "heads": (4, "of attention"),
        "context": (128, "bytes of a window"),
    }
    for name, (default, what) in sizes.items():
        parser.add_argument(
            f"--{name}",
            type=arguments.positive_int,
            default=default,
            metavar="N",
            help=what,
        )
    return parser


def _named_path(text: str) -> tuple[str, pathlib.Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be NAME=PATH, got {text!r}")
    return name, pathlib.Path(path)


if __name__ == "__main__":
    main()
