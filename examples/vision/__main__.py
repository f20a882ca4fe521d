"""Command line of the vision experiment: ``python -m examples.vision``."""

import argparse

from examples.datasets.mnist import load, normalise
from examples.datasets.tfds import DatasetError
from examples.models.cnn import CNN
from examples.runner import arguments, cli, sharding
from examples.runner.data import Experiment
from examples.runner.plan import Method
from examples.runner.stopping import Sigterm
from examples.vision import report
from examples.vision.figures import save_samples
from examples.vision.study import STUDY


def main(argv: list[str] | None = None) -> None:
    """Trains what has no row yet, then makes the tables and figures of all rows."""
    cli.command(_parser(), argv, _run)


def _run(
    parser: argparse.ArgumentParser, args: argparse.Namespace, sigterm: Sigterm
) -> None:
    try:
        mesh = cli.prepared(args)
        tasks = load(args.data_dir)
    except (DatasetError, OSError, ValueError) as error:
        parser.error(str(error))
    chosen = cli.chosen(STUDY, args.methods)
    replayed = max(_replayed(method) for method in chosen.values())
    if args.batch_size <= replayed:
        parser.error(f"--batch-size must be above {replayed}, the images replayed")
    experiment = Experiment(
        "vision", CNN, normalise, tasks, args.batch_size, dtype=args.dtype
    )
    cli.run(parser, args, experiment, chosen, mesh, sigterm, report.write)
    if sharding.is_first_process() and not args.dry_run:
        save_samples(tasks, args.out / "samples.png")
        print(f"Written: {args.out / 'samples.png'}")


def _replayed(method: Method) -> int:
    return max(
        sum(p.examples_replayed() for p in phase.plugins) for phase in method.phases
    )


def _parser() -> argparse.ArgumentParser:
    what = (
        "Trains the paper's CNN for 4 epochs on MNIST and 1 on Fashion-MNIST (Section"
        " 4.1)"
    )
    return arguments.of_experiment(STUDY, what, "images", batch_size=32)


if __name__ == "__main__":
    main()
