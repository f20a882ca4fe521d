"""Command line of the demo: ``python -m examples.demo``."""

import argparse
import functools
import pathlib
import tempfile
import time

import numpy as np
from tqdm import tqdm

from examples.datasets.stream import Stream
from examples.demo import report
from examples.demo.report import Learned
from examples.models.registry import models
from examples.runner import arguments, cli
from examples.runner.data import Experiment
from examples.runner.run import Runner
from examples.runner.stopping import Sigterm
from examples.streams.study import study
from examples.streams.tables import matrix

# The labels, and the best setting of each method's nine in results/demo/sweep.
METHODS = {
    "sgd": ("SGD", "sgd_0.05"),
    "adam": ("Adam", "adam_0.0003"),
    "ewc": ("Online EWC", "ewc_online_30"),
    "classp": ("CLASSP", "classp_0.1"),
    "classp_gram": ("classp_gram", "gram_64_announced_fast_0.2"),
}
STREAM = Stream("permuted_digits", "domain", 8)
MODEL, BATCH_SIZE = "mlp_100", 32


def main(argv: list[str] | None = None) -> None:
    """Trains each method on all tasks, prints the table and saves the figure."""
    cli.command(_parser(), argv, _run, "begin anew")


def _run(
    parser: argparse.ArgumentParser, args: argparse.Namespace, sigterm: Sigterm
) -> None:
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {error}")
    learned = _learn(args, sigterm)
    report.save_figure(learned, args.out / "demo.png")
    print(f"\n{(args.out / 'demo.md').read_text()}\nTable: {args.out / 'demo.md'}")
    print(f"Picture: {args.out / 'demo.png'}, {args.out / 'demo.svg'}")


def _learn(args: argparse.Namespace, sigterm: Sigterm) -> list[Learned]:
    """Trains the methods, and writes the table after each of them."""
    compared = study(STREAM, args.epochs, BATCH_SIZE)
    experiment = Experiment(
        "demo",
        functools.partial(models()[MODEL].make, classes=STREAM.outputs),
        STREAM.definition.preprocess,
        STREAM.load(),
        BATCH_SIZE,
        measurements=1,
        splits=("test",),
        measure_unseen=True,
    )
    methods, seeds = args.methods or list(METHODS), arguments.seeds(args)
    caption = (
        f"Held-out accuracy in %, mean ± sample deviation, of {STREAM.tasks} tasks;"
        f" `--epochs {args.epochs} --seed {' '.join(map(str, seeds))}`. Average"
        " accuracy: on all tasks after the last. Forgetting: the points that a task has"
        " lost since its best, on average. Bytes: of the optimizer's state. Seconds: of"
        " all seeds together, compilation included."
    )
    learned: list[Learned] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=len(methods) * len(seeds), desc="Demo", unit="run") as bar,
    ):
        runner = Runner(experiment, pathlib.Path(folder), sigterm=sigterm)
        for name in methods:
            label, setting = METHODS[name]
            method, results = compared.methods[setting], []
            # A folder of its own: no method begins with what another has trained.
            runner.write_to(pathlib.Path(folder) / name)
            start = time.perf_counter()
            for seed in seeds:
                (outcome,) = runner.train(method.phases, [seed], label, method.splits)
                results.append(outcome.results)
                bar.update()
            learned.append(
                Learned(
                    label,
                    method,
                    np.array([matrix(compared, {"results": of}) for of in results]),
                    max(of["bytes_per_weight"] for of in results[0]),
                    time.perf_counter() - start,
                )
            )
            with sigterm.deferred():
                # So that a demo cut short has left its rows.
                report.write(learned, caption, args.out / "demo.md")
    return learned


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description=(
            f"Learns {STREAM.tasks} tasks one after the other: 4,000 MNIST digits,"
            " their pixels permuted in another way for each task. Shows what each"
            " method still knows of the earlier tasks."
        ),
        formatter_class=arguments.HelpFormatter,
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(METHODS),
        metavar="METHOD",
        help=f"which to compare, of {', '.join(METHODS)} (default: all)",
    )
    parser.add_argument(
        "--epochs", type=arguments.positive_int, default=2, help="on each task"
    )
    arguments.add_seeds(parser, 3)
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("out/demo"),
        help="folder for demo.md, demo.png and demo.svg",
    )
    return parser


if __name__ == "__main__":
    main()
