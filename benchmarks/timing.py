"""What the benchmarks share: sizes, turns side by side, medians and spreads."""

import argparse
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import jax
import numpy as np
from tqdm import trange

from examples.runner import arguments

# Bytes a float32 weight that a step with one sum must move: gradient, sum and weight
# read, sum and weight written.
LEAST = 20
VOCABULARY = 42_991  # Of PhraseBank and IMDB, but for nine tokens.


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The parser of a benchmark, with ``--turns``."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        usage=arguments.USAGE,
        formatter_class=arguments.HelpFormatter,
    )
    parser.add_argument(
        "--turns", type=int, default=15, metavar="N", help="times each is measured"
    )
    return parser


def add_names(
    parser: argparse.ArgumentParser, option: str, known: Collection[str], meaning: str
) -> None:
    """Adds an option that names some of what is known, by default all."""
    parser.add_argument(
        option,
        nargs="+",
        choices=known,
        default=list(known),
        metavar="NAME",
        help=meaning,
    )


def in_turns(
    runs: Mapping[str, Callable[[], object]], turns: int, title: str
) -> dict[str, list[float]]:
    """Milliseconds of each run, by its name, a number a turn; all run in each turn."""
    for run in runs.values():  # Compile, allocate, warm up.
        run()
    milliseconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in trange(turns, desc=title, leave=False):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            milliseconds[name].append(1000 * (time.perf_counter() - start))
    return milliseconds


def spread(values: Sequence[float] | np.ndarray, digits: int) -> str:
    """Median, smallest and largest, as cells of a table."""
    return " | ".join(f"{f(values):.{digits}f}" for f in (np.median, np.min, np.max))


def machine() -> str:
    """What JAX computes on, in words."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{len(os.sched_getaffinity(0))} cores"
    kind: str = device.device_kind
    return kind
