"""What a setting chosen on other data costs: ``python -m examples.streams.regret``."""

import pathlib

from examples.models.registry import models
from examples.report import page
from examples.report.table import table
from examples.streams import report
from examples.streams.choice import (
    Accuracies,
    Grid,
    Place,
    Regrets,
    chosen_elsewhere,
    grids,
    of_the_same_scenario,
    over_benchmarks,
    read,
)
from examples.streams.figures import Dots, save_regrets

_DASH = "\N{EN DASH}"


def main(argv: list[str] | None = None) -> None:
    """Makes the page and the figure of all validation rows below a folder."""
    report.command(
        "regret",
        "Makes regret.md and regret.png from all rows of validation streams"
        " below a folder, and prints the first table. For each method and stream, they"
        " show how far the setting chosen on the other benchmarks is behind the best.",
        "holds folders with rows.jsonl; regret.md is written there",
        write,
        argv,
    )


def write(folder: pathlib.Path) -> None:
    """Writes the page and the figure, and prints the first table and where they are.

    Args:
      folder: holds, anywhere below it, rows of validation streams.

    Raises:
      ValueError: there are none, or something else.
    """
    measured = read(folder)
    out = folder.name if folder.is_absolute() else str(folder)
    sections, shown = [f"# {_TITLE}", _CAPTION], []
    dots: dict[str, list[Dots]] = {}
    for model in sorted(models(), key=lambda name: models()[name].title):
        places = [place for place in measured if place.model == model]
        of_model = grids({place: measured[place] for place in places})
        chosen = [(grid, chosen_elsewhere(grid.accuracies)) for grid in of_model]
        if any(regrets for _, regrets in chosen):
            shown.append(_summary(places, chosen))
            sections += [
                f"## Network: {model}",
                shown[-1],
                *_sections(places, of_model),
            ]
            dots[model] = [
                Dots(
                    grid.title,
                    grid.family,
                    _mean(of),
                    [(p.definition.title, r.points) for p, r in of.items()],
                )
                for grid, of in chosen
                if of
            ]
    if not dots:
        raise ValueError(f"{folder} has no method on the streams of two benchmarks")
    code = f"python -m examples.streams.regret {out}"
    sections += ["## How it was made", f"```\n{code}\n```"]
    files = [folder / "regret.md", folder / "regret.png"]
    files[0].write_text("\n\n".join(sections) + "\n")
    save_regrets(dots, files[1])
    page.announce(shown, files)


def _sections(places: list[Place], of_model: list[Grid]) -> list[str]:
    """What the page says of a network behind the first table."""
    alike = [(grid, of_the_same_scenario(grid.accuracies)) for grid in of_model]
    alone = [
        grid.title
        for grid in of_model
        if grid.accuracies and not chosen_elsewhere(grid.accuracies)
    ]
    left_out = [
        f"{grid.titles[name]} ({place.title})"
        for grid in of_model
        for place, names in grid.left_out.items()
        for name in names
    ]
    sections = [
        "### Chosen on the same scenario",
        "The same, but chosen on the other benchmarks' streams of the same scenario:",
        _summary(places, alike),
        "### Stream by stream",
        _details(of_model),
    ]
    if alone:
        sections.append(
            "Not in the first table, as they have rows on one benchmark alone or no"
            f" setting that was tried on all of their streams: {'; '.join(alone)}."
        )
    if left_out:
        sections.append(
            "Left out, as they lack seeds that other settings of the method have on the"
            f" stream: {'; '.join(left_out)}."
        )
    return sections


def _summary(places: list[Place], chosen: list[tuple[Grid, Regrets]]) -> str:
    """A line a method, a column a stream that any has a regret on."""
    places = [place for place in places if any(place in of for _, of in chosen)]
    lines = []
    for grid, regrets in chosen:
        if regrets:
            of, points = regrets.items(), _points(regrets)
            counts = [regret.compared for regret in regrets.values()]
            compared = " to ".join(dict.fromkeys([f"{min(counts)}", f"{max(counts)}"]))
            lines.append(
                [
                    grid.title,
                    f"{compared} of {_tried(grid.accuracies)}",
                    f"{over_benchmarks({p: r.accuracy[1] for p, r in of}):.1f}",
                    f"{_mean(regrets):.1f}",
                    f"{over_benchmarks({p: r.among for p, r in of}):.1f}",
                    f"{max(points.values()):.1f}",
                    *(f"{points[p]:.1f}" if p in points else _DASH for p in places),
                ]
            )
    header = ["method", "settings", "accuracy", "mean regret", "among these", "worst"]
    return table([*header, *(place.title for place in places)], lines)


def _details(of_model: list[Grid]) -> str:
    """A line a method and stream."""
    lines = []
    for grid in of_model:
        everywhere = chosen_elsewhere(grid.accuracies)
        alike = of_the_same_scenario(grid.accuracies)
        for place, here in grid.accuracies.items():
            if place not in everywhere:
                continue
            regret = everywhere[place]
            name = {
                of: title.removeprefix(f"{grid.title}, ")
                for of, title in grid.titles.items()
            }
            cells = [name[regret.best], f"{regret.accuracy[0]:.1f}"]
            for of in (regret, alike.get(place)):
                if of:
                    cells += [name[of.chosen], f"{of.accuracy[1]:.1f}"]
                    cells += [f"{of.points:.1f}", f"{of.compared} of {len(here)}"]
                else:
                    cells += 4 * [_DASH]
            lines.append([grid.title, place.title, f"{grid.runs[place]}", *cells])
    header = ["method", "stream", "runs", "best setting", "accuracy"]
    for where in ("on the others", "on the same scenario"):
        header += [f"chosen {where}", "accuracy", "regret", "settings"]
    return table(header, lines)


def _points(regrets: Regrets) -> dict[Place, float]:
    return {place: regret.points for place, regret in regrets.items()}


def _mean(regrets: Regrets) -> float:
    return over_benchmarks(_points(regrets))


def _tried(accuracies: Accuracies) -> int:
    return len(set().union(*accuracies.values()))


_TITLE = "What a setting costs that is chosen on the other streams"
_CAPTION = (
    "Points of average accuracy on held-out tenths of the training sets. An accuracy is"
    " the mean over the runs of a setting: the streams' seeds times the weights'. A"
    " setting's regret on a stream is what it is behind the best setting of its method"
    " there. Each benchmark is left out in turn, with all of its scenarios, and of each"
    " method the setting is chosen that has the least mean regret on the others. The"
    " tables show the regret of that setting on the benchmark left out.\n\n"
    "Settings: how many were tried on all of the method's streams, of how many that"
    " were tried on any. One of the former is chosen; the best of a stream may be any"
    " that was tried there. Accuracy: of the settings chosen. Among these: the mean"
    " regret if it is against the best of those tried on all; the rest of the mean"
    " regret is due to settings that weren't tried everywhere, and so couldn't be"
    " chosen. Means are over the scenarios of each benchmark, then over the benchmarks."
    " Worst: of the streams."
    f" {_DASH}: no rows; means of methods with other streams can't be compared."
)


if __name__ == "__main__":
    main()
