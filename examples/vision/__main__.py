"""Command line of the vision experiment: ``python -m examples.vision``."""

import argparse
import pathlib

import jax

from examples import rows
from examples.arguments import positive_int
from examples.cnn import CNN
from examples.continual import Experiment, Runner
from examples.datasets import DatasetError
from examples.methods import Method
from examples.vision import report
from examples.vision.data import load, normalise
from examples.vision.methods import GROUPS, METHODS


def main(argv: list[str] | None = None) -> None:
    """Trains what has no row yet, then makes the tables and figures of all rows."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        rows.read(args.out / "rows.jsonl")  # A damaged file, before any training.
        tasks = load(args.data_dir)
    except (DatasetError, OSError, ValueError) as error:
        parser.error(str(error))
    fewest = min(len(task.train.labels) for task in tasks.values())
    if args.batch_size > fewest:
        parser.error(f"--batch-size must be at most {fewest}, the training images")
    on_cpu = jax.default_backend() == "cpu"
    chosen = _chosen(args.methods)
    replayed = max(_replayed(method) for method in chosen.values())
    if args.batch_size <= replayed:
        parser.error(f"--batch-size must be above {replayed}, the images replayed")
    experiment = Experiment("vision", CNN, normalise, tasks, args.batch_size)
    vmap_seeds = args.vmap_seeds or (1 if on_cpu else args.seeds)
    runner = Runner(experiment, args.out, vmap_seeds)
    for name, method in chosen.items():
        runner.run(name, method, range(args.seeds))
    report.write(args.out, experiment.settings, with_dropout=args.evaluate_with_dropout)
    report.save_samples(tasks, args.out)


def _replayed(method: Method) -> int:
    replays = [phase.replay for phase in method.phases if phase.replay]
    return max((replay.in_batch for replay in replays), default=0)


def _chosen(names: list[str]) -> dict[str, Method]:
    chosen = {}
    for name in names:
        chosen |= GROUPS.get(name) or {name: METHODS[name]}
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.vision",
        description=(
            "Trains the paper's CNN for 4 epochs on MNIST and 1 on Fashion-MNIST"
            " (Section 4.1) and writes a row of results a method and seed; a second"
            " call goes on where the first stopped. python -m examples.vision.report"
            " makes the tables and figures alone."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=[*GROUPS, *METHODS],
        default=["paper"],
        metavar="METHOD",
        help="which to train: the groups "
        + "; ".join(f"{group} ({len(methods)})" for group, methods in GROUPS.items())
        + "; or single ones, of "
        + ", ".join(METHODS),
    )
    parser.add_argument(
        "--seeds",
        type=positive_int,
        default=10,
        metavar="N",
        help="seeds 0 to N - 1: of the weights, the order of the images, the dropout",
    )
    parser.add_argument(
        "--data-dir",
        type=pathlib.Path,
        help="TFDS's folder of data sets; where they're missing they're downloaded"
        " (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("out/vision"),
        help="folder for rows.jsonl, checkpoints, tables and figures",
    )
    parser.add_argument(
        "--vmap-seeds",
        type=positive_int,
        metavar="N",
        help="how many seeds train side by side in one program (default: 1 on a CPU,"
        " all elsewhere)",
    )
    parser.add_argument(
        "--evaluate-with-dropout",
        action="store_true",
        help="draw the figures from accuracies with dropout left on, as the paper's"
        " code measured them; rows and tables have both",
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=32, help="images a step"
    )
    return parser


if __name__ == "__main__":
    main()
