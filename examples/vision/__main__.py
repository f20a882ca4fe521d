"""Command line of the vision experiment: ``python -m examples.vision``."""

import argparse

from examples import arguments, sharding
from examples.checkpoints import Sigterm
from examples.datasets.mnist import load, normalise
from examples.datasets.tfds import DatasetError
from examples.methods import Method
from examples.models.cnn import CNN
from examples.runner.data import Experiment
from examples.vision import report
from examples.vision.figures import save_samples
from examples.vision.methods import STUDY


def main(argv: list[str] | None = None) -> None:
    """Trains what has no row yet, then makes the tables and figures of all rows."""
    arguments.command(_parser(), argv, _run)


def _run(
    parser: argparse.ArgumentParser, args: argparse.Namespace, sigterm: Sigterm
) -> None:
    try:
        mesh = arguments.prepared(args)
        tasks = load(args.data_dir)
    except (DatasetError, OSError, ValueError) as error:
        parser.error(str(error))
    chosen = arguments.chosen(STUDY, args.methods)
    replayed = max(_replayed(method) for method in chosen.values())
    if args.batch_size <= replayed:
        parser.error(f"--batch-size must be above {replayed}, the images replayed")
    experiment = Experiment(
        "vision", CNN, normalise, tasks, args.batch_size, dtype=args.dtype
    )
    arguments.run(parser, args, experiment, chosen, mesh, sigterm)
    if sharding.is_first_process():
        report.write(
            args.out,
            experiment.settings,
            with_dropout=args.evaluate_with_dropout,
            methods=chosen,
        )
        save_samples(tasks, args.out / "samples.png")
        print(f"Written: {args.out / 'samples.png'}")


def _replayed(method: Method) -> int:
    replays = [phase.replay for phase in method.phases if phase.replay]
    return max((replay.in_batch for replay in replays), default=0)


def _parser() -> argparse.ArgumentParser:
    what = (
        "Trains the paper's CNN for 4 epochs on MNIST and 1 on Fashion-MNIST (Section"
        " 4.1)"
    )
    return arguments.of_experiment(STUDY, what, "images", batch_size=32)


if __name__ == "__main__":
    main()
