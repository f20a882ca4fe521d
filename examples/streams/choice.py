"""A setting that is chosen on other data: which it is, and what it costs.

Nobody can tune on the tasks that are still to come. So of each method the setting is
chosen on the validation streams of all benchmarks but one, and taken to that one.
"""

import json
import pathlib
import statistics
from typing import NamedTuple

from examples.datasets.stream import SCENARIOS, Benchmark, benchmarks
from examples.methods.registry import Sweep, sweeps
from examples.report import page
from examples.runner import rows
from examples.runner.plan import Family
from examples.streams import report
from examples.streams.tables import average, pair

Measured = dict[str, dict[tuple[int, int], float]]
"""Average accuracies, %, by setting and what a row is of: the seeds of the stream and
of the weights."""


class Place(NamedTuple):
    """A validation stream, whatever its seed.

    Attributes:
      benchmark: a key of :func:`examples.datasets.stream.benchmarks`, the data set and
        what is made of it.
      scenario: domain-, class- or task-incremental.
      model: a key of :func:`examples.models.registry.models`.
      settings: all that its rows have in common, as JSON.
    """

    benchmark: str
    scenario: str
    model: str
    settings: str

    @property
    def definition(self) -> Benchmark:
        """The benchmark."""
        return benchmarks()[self.benchmark]

    @property
    def title(self) -> str:
        """What to call it, beside others of the same model."""
        of = self.definition
        return of.title + f", {self.scenario}" * (len(of.scenarios) > 1)


Accuracies = dict[Place, dict[str, float]]
"""By stream and setting: the average accuracy, %, the mean over both seeds."""


class Grid(NamedTuple):
    """A method with all of its settings: a sweep, or those of one grid.

    Attributes:
      title: what to call it.
      family: whose colour it has.
      titles: of its settings, by their names.
      accuracies: of those settings that have all seeds which any has on a stream.
      runs: how many seeds that are, the streams' times the weights', by stream.
      left_out: the settings that lack some, by stream.
    """

    title: str
    family: Family
    titles: dict[str, str]
    accuracies: Accuracies
    runs: dict[Place, int]
    left_out: dict[Place, list[str]]


class Regret(NamedTuple):
    """What the choice on other data costs a method on a stream.

    Attributes:
      best: the name of the best setting there.
      chosen: that of the one chosen elsewhere.
      accuracy: of each of the two.
      compared: how many settings were chosen among.
      best_compared: the best accuracy that any of these has there.
    """

    best: str
    chosen: str
    accuracy: tuple[float, float]
    compared: int
    best_compared: float

    @property
    def points(self) -> float:
        """By how much the chosen one is behind the best."""
        return self.accuracy[0] - self.accuracy[1]

    @property
    def among(self) -> float:
        """By how much it is behind the best of those chosen among."""
        return self.best_compared - self.accuracy[1]


Regrets = dict[Place, Regret]


def read(folder: pathlib.Path) -> dict[Place, Measured]:
    """What all rows of validation streams below a folder say, by stream.

    Those with a loss of their own aren't read.

    Raises:
      ValueError: there are none, or a file is damaged.
    """
    measured: dict[Place, Measured] = {}
    for path in sorted(folder.rglob("rows.jsonl")):
        if not any(row["settings"].get("validation") for row in rows.read(path)):
            continue
        compared, found = report.read(path.parent)
        settings = report.of_any_seed(page.distinct(found)[0]["settings"])
        # Most rows there may be others; and of another loss are few streams.
        if not settings["validation"] or "loss" in settings:
            continue
        place = Place(
            settings["benchmark"],
            settings["scenario"],
            settings["model"],
            json.dumps(settings, sort_keys=True),
        )
        of_place = measured.setdefault(place, {})
        for name, of_method in found.items():
            of_place.setdefault(name, {}).update(
                {pair(row): average(compared, row) for row in of_method}
            )
    if not measured:
        raise ValueError(
            f"{folder} has no rows of a validation stream; make some with `python -m"
            f" examples.streams --validation --out {folder / 'validation'}`"
        )
    return {place: measured[place] for place in sorted(measured, key=_order)}


def _order(place: Place) -> tuple[int, int, str]:
    return (
        [*benchmarks()].index(place.benchmark),
        SCENARIOS.index(place.scenario),
        place.settings,
    )


def grids(measured: dict[Place, Measured]) -> list[Grid]:
    """The methods, each with what its settings reach on each stream that it has."""
    together: dict[str, list[Sweep]] = {}
    for sweep in sweeps():
        together.setdefault(sweep.grid or sweep.name, []).append(sweep)
    return [_grid(of_grid, measured) for of_grid in together.values()]


def _grid(of_grid: list[Sweep], measured: dict[Place, Measured]) -> Grid:
    titles = {
        f"{sweep.name}_{value:g}": f"{sweep.title}, {sweep.knob} {value:g}"
        for sweep in of_grid
        for value in sweep.values
    }
    grid = Grid(of_grid[0].title, of_grid[0].family, titles, {}, {}, {})
    for place, of_place in measured.items():
        there = {name: of_place[name] for name in titles if name in of_place}
        every = set().union(*there.values())
        complete = {name: of for name, of in there.items() if of.keys() == every}
        grid.left_out[place] = [name for name in there if name not in complete]
        if complete:
            grid.runs[place] = len(every)
            grid.accuracies[place] = {
                name: statistics.fmean(of.values()) for name, of in complete.items()
            }
    return grid


def chosen_elsewhere(accuracies: Accuracies) -> Regrets:
    """Leaves each benchmark out, with all of its scenarios, and chooses on the others.

    The setting chosen is the one whose regrets on the others, the points by which it is
    behind the best there, have the least mean: over the scenarios of each benchmark,
    then over the benchmarks. It is one of those that were tried on all of the streams;
    the best of a stream is so of all tried on that one.

    Args:
      accuracies: of one method's settings, on the streams of one model.

    Returns:
      What the choice costs on each stream, of those that have another benchmark's
      beside them; nothing if no setting was tried on all.
    """
    everywhere = [
        name
        for name in next(iter(accuracies.values()), {})
        if all(name in of_place for of_place in accuracies.values())
    ]
    best = {p: max(of, key=lambda name: of[name]) for p, of in accuracies.items()}
    regrets: Regrets = {}
    for place, here in accuracies.items():
        others = [p for p in accuracies if p.benchmark != place.benchmark]
        if others and everywhere:
            chosen = min(
                everywhere,
                key=lambda name: over_benchmarks(
                    {p: accuracies[p][best[p]] - accuracies[p][name] for p in others}
                ),
            )
            accuracy = (here[best[place]], here[chosen])
            regrets[place] = Regret(
                best[place],
                chosen,
                accuracy,
                len(everywhere),
                max(here[name] for name in everywhere),
            )
    return regrets


def of_the_same_scenario(accuracies: Accuracies) -> Regrets:
    """The same, each scenario by itself."""
    return {
        place: regret
        for scenario in SCENARIOS
        for place, regret in chosen_elsewhere(
            {p: of for p, of in accuracies.items() if p.scenario == scenario}
        ).items()
    }


def over_benchmarks(by_place: dict[Place, float]) -> float:
    """The mean over the scenarios of each benchmark, then over the benchmarks."""
    of_benchmarks: dict[str, list[float]] = {}
    for place, value in by_place.items():
        of_benchmarks.setdefault(place.benchmark, []).append(value)
    return statistics.fmean(map(statistics.fmean, of_benchmarks.values()))
