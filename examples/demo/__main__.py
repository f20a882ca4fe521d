"""Command line of the demo: ``python -m examples.demo``."""

import argparse
import pathlib

import jax

from examples.datasets.digits import TRAIN_SIZE, digits_then_permuted_digits
from examples.demo import report
from examples.demo.run import Run, train
from examples.demo.study import METHODS, method
from examples.runner import arguments
from examples.runner.arguments import positive_float, positive_int
from examples.runner.cli import until_stopped
from examples.runner.plan import Method, make_optimizer
from examples.runner.rows import device
from examples.runner.stopping import Sigterm
from examples.runner.words import count

_TASKS = ["digits", "permuted digits"]


def main(argv: list[str] | None = None) -> None:
    """Trains each method on both tasks, prints the table and saves the figure."""
    parser = _parser()
    args = parser.parse_args(argv)
    with until_stopped(parser, argv, "begin anew") as sigterm:
        _run(parser, args, sigterm)


def _run(
    parser: argparse.ArgumentParser, args: argparse.Namespace, sigterm: Sigterm
) -> None:
    compared = _compared(args)
    try:  # All of them before the first is trained.
        for of in compared.values():
            for phase in of.phases:
                make_optimizer(phase)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    if args.batch_size > TRAIN_SIZE:
        parser.error(f"--batch-size must be at most {TRAIN_SIZE}, the training images")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {error}")

    runs: dict[str, list[Run]] = {}
    for label, of in compared.items():
        runs[label] = [
            train(
                of,
                digits_then_permuted_digits(seed),
                args.batch_size,
                seed,
                sigterm,
            )
            for seed in arguments.seeds(args)
        ]
        with sigterm.deferred():
            # So that a sweep cut short has left its rows.
            text = _write(args, runs, compared)
    print(f"\n{text}")
    print(f"Table: {args.out / 'demo.md'}\nFigure: {args.out / 'demo.png'}")


def _write(
    args: argparse.Namespace, runs: dict[str, list[Run]], compared: dict[str, Method]
) -> str:
    """Saves the table and the figure of the runs so far, and gives the table."""
    text = (
        f"{report.table(runs)}\n\n"
        f"Held-out accuracy, %, on A: digits, B: the same with their pixels permuted;"
        f" {count(args.epochs[0], 'epoch')} of A, then {args.epochs[1]} of B; seed"
        f" {', '.join(map(str, arguments.seeds(args)))}; {device()},"
        f" JAX {jax.__version__}.\n"
    )
    (args.out / "demo.md").write_text(text)
    families = {label: of.family for label, of in compared.items()}
    report.save_figure(runs, families, args.out / "demo.png")
    return text


def _compared(args: argparse.Namespace) -> dict[str, Method]:
    """What each row's label stands for."""
    compared = {}
    for name in args.methods:
        family, defaults = METHODS[name]
        given = {key: getattr(args, key) for key in defaults if key in vars(args)}
        rates = args.learning_rate or [
            factor * defaults["learning_rate"] for factor in args.scale_learning_rate
        ]
        for rate in rates:
            label = family.title + (f", {rate:g}" if len(rates) > 1 else "")
            hyperparameters = {**defaults, **given, "learning_rate": rate}
            compared[label] = method(name, hyperparameters, _TASKS, args.epochs)
    return compared


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description=(
            "Trains the paper's CNN on 4,000 MNIST digits (task A), then on the same"
            " digits with their pixels permuted (task B), and shows how much of task A"
            " each optimizer keeps."
        ),
        usage=arguments.USAGE,
        formatter_class=arguments.HelpFormatter,
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(METHODS),
        default=list(METHODS),
        metavar="METHOD",
        help=f"what to train, of {', '.join(METHODS)}",
    )
    parser.add_argument(
        "--epochs",
        nargs=2,
        type=positive_int,
        default=[4, 6],
        metavar=("A", "B"),
        help="passes over each task",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=32,
        metavar="N",
        help="images per step",
    )
    arguments.add_seeds(parser, 1)
    rates = parser.add_mutually_exclusive_group()
    rates.add_argument(
        "--learning-rate",
        nargs="+",
        type=positive_float,
        metavar="RATE",
        help="for every method; several give a row each (default: the"
        " method's own, "
        + ", ".join(
            f"{name} {of.hyperparameters['learning_rate']:g}"
            for name, of in METHODS.items()
        )
        + ")",
    )
    rates.add_argument(
        "--scale-learning-rate",
        nargs="+",
        type=positive_float,
        default=[1.0],
        metavar="FACTOR",
        help="multiply each method's own rate; several give a row each",
    )
    classp = parser.add_argument_group("of CLASSP only")
    for name, meaning in {
        "threshold": "compared with the squared gradient",
        "power": "p of the accumulated |gradient|^p",
        "eps": "added to the accumulated sum",
    }.items():
        default = METHODS["classp"].hyperparameters[name]
        classp.add_argument(
            f"--{name}", type=float, default=default, metavar="X", help=meaning
        )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("out/demo"),
        metavar="FOLDER",
        help="for demo.md and demo.png",
    )
    return parser


if __name__ == "__main__":
    main()
