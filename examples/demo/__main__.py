"""Command line of the demo: ``python -m examples.demo``."""

import argparse
import pathlib
import platform

import jax

from examples.demo import methods, report
from examples.demo.data import digits_then_permuted_digits
from examples.demo.run import Run, train


def main(argv: list[str] | None = None) -> None:
    """Trains each method on both tasks, prints the table and saves the figure."""
    args = _parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[Run]] = {}
    for method in args.methods:
        defaults = methods.METHODS[method]
        chosen = {
            name: getattr(args, name)
            for name in ("threshold", "power", "eps")
            if name in defaults and getattr(args, name) is not None
        }
        rates = args.learning_rate or [defaults["learning_rate"]]
        for rate in rates:
            label = methods.TITLES[method] + (f", {rate:g}" if len(rates) > 1 else "")
            hyperparameters = {**defaults, **chosen, "learning_rate": rate}
            runs[label] = [
                train(
                    method,
                    hyperparameters,
                    digits_then_permuted_digits(seed),
                    tuple(args.epochs),
                    args.batch_size,
                    seed,
                )
                for seed in args.seed
            ]
    text = (
        f"{report.table(runs)}\n\n"
        f"{_epochs(args.epochs)}, seed {', '.join(map(str, args.seed))}; A: digits, B:"
        f" permuted digits; held-out accuracy, %; {_machine()}.\n"
    )
    print(f"\n{text}")
    for name, write in (
        ("demo.md", lambda path: path.write_text(text)),
        ("demo.png", lambda path: report.save_figure(runs, path)),
    ):
        write(args.out / name)
        print(args.out / name)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description=(
            "Trains the paper's CNN on 4,000 MNIST digits (task A), then on the same"
            " digits with their pixels permuted (task B), and shows how much of task A"
            " each optimizer keeps."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(methods.METHODS),
        default=list(methods.METHODS),
        metavar="METHOD",
        help=f"which optimizers to run, of {', '.join(methods.METHODS)}",
    )
    parser.add_argument(
        "--epochs",
        nargs=2,
        type=_positive_int,
        default=[4, 6],
        metavar=("A", "B"),
        help="passes over each task",
    )
    parser.add_argument("--batch-size", type=_positive_int, default=32, help="images")
    parser.add_argument(
        "--seed",
        nargs="+",
        type=int,
        default=[0],
        help="of the data split, the permutation, weights, dropout and order;"
        " several make a mean",
    )
    parser.add_argument(
        "--learning-rate",
        nargs="+",
        type=float,
        help="for every chosen method; several make a row each (default: the method's"
        " own, in examples/demo/methods.py)",
    )
    classp = parser.add_argument_group("CLASSP alone")
    for name, default in methods.METHODS["classp"].items():
        if name != "learning_rate":
            classp.add_argument(f"--{name}", type=float, default=default, help="")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("out/demo"),
        help="folder for demo.md and demo.png",
    )
    return parser.parse_args(argv)


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _epochs(epochs: list[int]) -> str:
    return f"{epochs[0]} epochs of A, then {epochs[1]} of B"


def _machine() -> str:
    device = jax.devices()[0]
    return (
        f"{device.device_kind} ({platform.machine()}, {_cores()} cores),"
        f" JAX {jax.__version__}"
    )


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
