"""Tables and figures of the vision experiment: ``python -m examples.vision.report``."""

import argparse
import pathlib
from collections.abc import Iterable
from typing import Any

from examples.datasets import mnist
from examples.datasets.tfds import DatasetError
from examples.report import page, tables
from examples.report.figures import save_fronts
from examples.report.style import Lines
from examples.report.tables import Found, best
from examples.runner import arguments
from examples.vision.ablation import ABLATION
from examples.vision.figures import save_ablation, save_samples, save_training
from examples.vision.fronts import FRONTS
from examples.vision.study import STUDY
from examples.vision.tables import (
    SUMMARY,
    ablation_table,
    of_common_seeds,
    summary_table,
    threshold_table,
)

_FRONTS = (
    "CLASSP, g² > θ·mean(g²) on Fashion-MNIST",
    "CLASSP, 64 directions",
    "EWC",
)
_LINES = (
    *("classp", "sgd"),
    *(name for name in STUDY.groups["paper"] if "adagrad" in name),
    *STUDY.groups["paper"],
)
"""Of the figure along training, behind the best of these fronts."""


def main(argv: list[str] | None = None) -> None:
    """Makes the tables and figures of a folder's rows."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        write(
            args.folder,
            with_dropout=args.evaluate_with_dropout,
            figures=args.figures,
        )
        if args.data_dir:
            save_samples(mnist.load(args.data_dir), args.folder / "samples.png")
    except (DatasetError, OSError, ValueError) as error:
        parser.error(str(error))


def write(
    folder: pathlib.Path,
    settings: dict[str, Any] | None = None,
    *,
    with_dropout: bool = False,
    methods: Iterable[str] | None = None,
    figures: bool = True,
) -> None:
    """Writes the tables and figures, and prints where.

    Args:
      folder: holds ``rows.jsonl``.
      settings: of the rows to show; by default those that most rows have.
      with_dropout: whether the figures show accuracies with dropout left on.
      methods: those whose lines of the tables are printed; by default all.
      figures: whether to draw any.

    Raises:
      ValueError: there are no rows, or something else.
    """
    found, left_out = page.read(STUDY, folder / "rows.jsonl", settings)
    lines, not_drawn = page.training_lines(STUDY, found, _names(found) * figures)
    caption = (
        "training.png shows accuracies on the first 1,000 images of each test set, the"
        " mean over the seeds and a deviation to both sides."
    )
    sections = [
        *page.sections(STUDY, found),
        *page.along_training(lines, not_drawn, caption),
        *page.provenance(STUDY, {"": found}, left_out, folder, figures=figures),
    ]
    (folder / "table.md").write_text("\n\n".join(sections) + "\n")
    files = [folder / "rows.jsonl", folder / "table.md", *_write_tables(found, folder)]
    if figures:
        files += _write_figures(found, lines, folder, with_dropout)
    shown = tables.to_print(STUDY, found, methods)
    page.announce([*tables.of_run(STUDY, shown), ablation_table(shown)], files)


def _names(found: Found) -> list[str]:
    """The methods to draw along training, the first ones first."""
    bests = [
        best(STUDY, front, found)
        for front in FRONTS
        if front.title in _FRONTS and found.keys() & front.methods.keys()
    ]
    return [*bests, *_LINES]


def _write_tables(found: Found, folder: pathlib.Path) -> list[pathlib.Path]:
    """Gives the files written, beside the page."""
    written = []
    if found.keys() >= set(SUMMARY):
        written.append(folder / "summary.md")
        written[-1].write_text(f"{summary_table(found)}\n")
    if _ablated(found):
        paired = of_common_seeds(found)
        written.append(folder / "ablation.md")
        written[-1].write_text(
            f"{ablation_table(paired)}\n\n"
            "Thresholds in the same unit on the same task are of the same seeds, if"
            " there are any that all of them have. Accuracies on the test sets, dropout"
            " off, %; updated: the share of weights that a step moves, unassigned: of"
            " those that no gradient was collected for, %.\n\n"
            "## Thresholds of θ·mean(g²), MNIST / Fashion-MNIST\n\n"
            f"{threshold_table(paired)}\n"
        )
    return written


def _write_figures(
    found: Found, lines: Lines, folder: pathlib.Path, with_dropout: bool
) -> list[pathlib.Path]:
    """Gives the files written."""

    def file(name: str) -> pathlib.Path:
        return folder / f"{name}{'_with_dropout' * with_dropout}.png"

    save_fronts(STUDY, found, file("fronts"), with_dropout=with_dropout)
    written = [file("fronts")]
    if lines:
        save_training(lines, file("training"), with_dropout=with_dropout)
        written.append(file("training"))
    if _ablated(found):
        points = [(ABLATION[name], of) for name, of in of_common_seeds(found).items()]
        save_ablation(points, file("ablation"), with_dropout=with_dropout)
        written.append(file("ablation"))
    return written


def _ablated(found: Found) -> bool:
    """Whether the ablation was run: a front, too, has a few of its points."""
    return any(row["method"] in ABLATION for row in page.distinct(found))


def _parser() -> argparse.ArgumentParser:
    what = (
        "Makes tables and figures from the rows that `python -m examples.vision` wrote,"
        " and prints the tables. Of the ablation it makes ablation.md and ablation.png;"
        " summary.md needs rows of all its methods."
    )
    parser = arguments.of_report(STUDY, what)
    parser.add_argument(
        "--data-dir",
        type=pathlib.Path,
        metavar="FOLDER",
        help="data sets of TFDS, to draw samples.png too",
    )
    return parser


if __name__ == "__main__":
    main()
