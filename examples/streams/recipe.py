"""What a setting too small, and one too large, look like.

``python -m examples.streams.recipe`` makes the picture and the tables of
docs/choosing.md from the committed rows: along a setting, how well each task is
learned, and how much of all tasks is left at the end.
"""

import pathlib
import statistics
from typing import NamedTuple

from matplotlib.figure import Figure

from examples.report import page
from examples.report.lines import save
from examples.report.table import table
from examples.runner.study import Front
from examples.streams import report
from examples.streams.tables import average, learned


class Panel(NamedTuple):
    """A method's setting on a validation stream.

    Attributes:
      title: of the panel.
      stream: the folder of the stream's rows, below ``results/streams``.
      sweep: of the method's settings; what their names begin with.
      start: the value to start from.
    """

    title: str
    stream: str
    sweep: str
    start: float


PANELS = (
    Panel(
        "classp_gram, Split MNIST, class-incremental",
        "split_mnist/class-mlp/validation",
        "gram_64",
        1.0,
    ),
    Panel(
        "classp_gram, Split Fashion-MNIST, domain-incremental",
        "split_fashion_mnist/domain-mlp/validation",
        "gram_64",
        1.0,
    ),
    Panel(
        "classp, Split MNIST, domain-incremental",
        "split_mnist/domain-mlp/validation",
        "classp",
        0.01,
    ),
)
LEARNED, LEFT = "each task, just after it", "all tasks, at the end"
TEXTS = {
    LEARNED: (0.7, 93),
    LEFT: (10, 40),
    "too small: little is learned": (0.4, 10),
    "too large: much is forgotten": (12, 20),
}
"""What the first panel says, and where it ends."""


def main(argv: list[str] | None = None) -> None:
    """Makes the picture and the page."""
    report.command(
        "recipe",
        "Makes recipe.md and recipe.png of the rows of some validation"
        " streams: along a method's setting, how well each task is learned and how much"
        " of all tasks is left at the end.",
        "holds the streams' folders; page and picture are written there",
        write,
        argv,
    )


def write(folder: pathlib.Path) -> None:
    """Writes the picture and the page, and prints the tables and where they are.

    Args:
      folder: holds the streams' folders.

    Raises:
      ValueError: a stream has no rows, or something else.
    """
    figure = Figure(figsize=(4.2 * len(PANELS), 3.8), layout="constrained")
    all_axes = figure.subplots(1, len(PANELS), sharey=True)
    sections, tables = ["# Settings too small and too large"], []
    for ax, panel in zip(all_axes, PANELS, strict=True):
        front, of_values = points(folder, panel)
        for column, style in ((1, "o--"), (2, "o-")):
            accuracies = [point[column] for point in of_values]
            colour = front.family.colour if column == 2 else "0.5"
            ax.plot([of[0] for of in of_values], accuracies, style, color=colour, ms=4)
        ax.axvline(panel.start, color="0.7", lw=1, zorder=0)
        ax.set_title(panel.title, fontsize="medium")
        ax.set(
            xscale="log", xlabel=f"{front.knob}; grey line: start here", ylim=(0, 105)
        )
        ax.grid(alpha=0.3)
        tables.append(_table(front, of_values))
        sections += [f"## {panel.title}", tables[-1]]
    for text, where in TEXTS.items():
        all_axes[0].annotate(text, where, ha="right", fontsize="small")
    all_axes[0].set_ylabel("accuracy, %")
    files = [folder / "recipe.md", folder / "recipe.png"]
    sections += [
        "Accuracies, %, on validation streams, of one seed of each setting.",
        "## How it was made",
        "```\npython -m examples.streams.recipe\n```",
    ]
    files[0].write_text("\n\n".join(sections) + "\n")
    save(figure, files[1])
    page.announce(tables, files)


def points(
    folder: pathlib.Path, panel: Panel
) -> tuple[Front, list[tuple[float, float, float]]]:
    """Reads a panel.

    Args:
      folder: holds the streams' folders.
      panel: of which setting on which stream.

    Returns:
      The method's front, and for each value of its setting, in order: the value, the
      accuracy on each task just after it and that on all tasks at the end, in %.
    """
    study, found = report.read(folder / panel.stream)
    (front,) = (of for of in study.fronts if _begins(of) == panel.sweep)
    return front, sorted(
        (
            value,
            statistics.fmean(learned(study, row) for row in found[name]),
            statistics.fmean(average(study, row) for row in found[name]),
        )
        for name, value in front.values.items()
        if name in found
    )


def _begins(front: Front) -> str:
    return next(iter(front.methods)).rpartition("_")[0]


def _table(front: Front, of_values: list[tuple[float, float, float]]) -> str:
    lines = [
        [f"{value:g}", f"{just_learned:.1f}", f"{left:.1f}"]
        for value, just_learned, left in of_values
    ]
    return table([front.knob, LEARNED, LEFT], lines)


if __name__ == "__main__":
    main()
