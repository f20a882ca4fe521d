"""Tables and figures: ``python -m examples.sentiment.report``."""

import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from examples.report import page, tables
from examples.report.figures import save_fronts
from examples.report.measures import Rows
from examples.report.table import cell, table
from examples.report.tables import Found, best
from examples.runner import arguments
from examples.sentiment.figures import (
    at_equal_accuracy,
    save_equal_accuracy,
    save_forgetting,
)
from examples.sentiment.study import STUDY, TASKS

_LABELS = {
    "sentiment": "IMDB's positive reviews are of PhraseBank's positive class here. In"
    " the paper's code they are of its neutral one (--label-map released): its numbers"
    " and these aren't of the same task.",
    "released": "IMDB's positive reviews are of PhraseBank's neutral class, as in the"
    " paper's code.",
}
LEVELS = (80, 83, 85, 87)  # Of accuracy on IMDB, in per cent.


def main(argv: list[str] | None = None) -> None:
    """Makes the tables and figures of a folder's rows."""
    what = (
        "Makes table.md, forgetting.png, equal_accuracy.png and fronts.png from the"
        " rows that `python -m examples.sentiment` wrote, and prints the tables."
    )
    parser = arguments.of_report(STUDY, what)
    args = parser.parse_args(argv)
    try:
        write(
            args.folder,
            with_dropout=args.evaluate_with_dropout,
            figures=args.figures,
        )
    except (OSError, ValueError) as error:
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
    names = [
        best(STUDY, front, found)
        for front in STUDY.fronts
        # Factored sums' lines are hardly told from those of full ones.
        if found.keys() & front.methods and "factored" not in front.title
    ]
    names += ["classp", "sgd", "adam", "ewc_paper", *STUDY.groups["paper"]]
    lines, not_drawn = page.training_lines(STUDY, found, names * figures)
    of_rows = next(iter(found.values()))[0]["settings"]
    sections = [
        *page.sections(STUDY, found),
        _LABELS[of_rows["label_map"]],
        "## How long it took",
        epochs_table(found),
        "Epochs until the loss of an epoch's last batch was low enough; never: seeds"
        " whose loss wasn't when it was no number or the epochs were up, 500 of"
        " PhraseBank and 250 of IMDB; 20 and 5 of methods that were seen to learn"
        " nothing; 100 of both at once.",
        "## At equal accuracy on IMDB",
        equal_accuracy_table(found),
        "Accuracy on PhraseBank when that on 5,000 reviews to train on first reached as"
        " much, %, both with dropout off, interpolated between two measurements: there"
        " is one every epoch, and of long phases one a tenth of the steps so far. In"
        " brackets the seeds that did, where not all did.",
        *page.along_training(
            lines,
            not_drawn,
            "forgetting.png shows accuracies on PhraseBank and on 5,000 reviews of"
            " IMDB, both from the training sets, while IMDB is learned, as far as all"
            " seeds train; equal_accuracy.png shows the one when the other is first"
            " reached, as far as all seeds reach it. Lines are means over the seeds,"
            " bands a deviation to both sides.",
        ),
        *page.provenance(
            STUDY, {"": found}, left_out, folder, _options(of_rows), figures=figures
        ),
    ]
    (folder / "table.md").write_text("\n\n".join(sections) + "\n")

    def file(name: str) -> pathlib.Path:
        return folder / f"{name}{'_with_dropout' * with_dropout}.png"

    files = [folder / "rows.jsonl", folder / "table.md"]
    if figures:
        save_fronts(STUDY, found, file("fronts"), with_dropout=with_dropout)
        files.append(file("fronts"))
    if lines:
        save_forgetting(lines, file("forgetting"), with_dropout=with_dropout)
        save_equal_accuracy(lines, file("equal_accuracy"), with_dropout=with_dropout)
        files += [file("forgetting"), file("equal_accuracy")]
    shown = tables.to_print(STUDY, found, methods)
    page.announce(tables.of_run(STUDY, shown), files)


def equal_accuracy_table(found: Found) -> str:
    """PhraseBank's accuracy at some levels of IMDB's.

    Args:
      found: the rows.

    Returns:
      The table.
    """

    def at(of_method: Rows, level: float) -> str:
        reached = [at_equal_accuracy(row, level) for row in of_method]
        reached = [value for value in reached if not np.isnan(value)]
        if not reached:
            return "\N{EN DASH}"
        count = f" ({len(reached)})" if len(reached) < len(of_method) else ""
        return cell(reached, 1) + count

    lines = [
        [
            STUDY.methods[name].title,
            *(at(of_method, level) for level in LEVELS),
            f"{len(of_method)}",
        ]
        for name, of_method in found.items()
        if len(of_method[0]["results"]) > 1
    ]
    return table(["method", *(f"IMDB {level}%" for level in LEVELS), "seeds"], lines)


def epochs_table(found: Found) -> str:
    """How many epochs each task took.

    Args:
      found: the rows.

    Returns:
      The table.
    """

    def of_phase(of_method: Rows, phase: int) -> str:
        results = [row["results"][phase] for row in of_method]
        stop_loss = of_method[0]["phases"][phase]["stop_loss"]
        losses = [result["last_loss"] for result in results]
        capped = sum(loss is None or loss > stop_loss for loss in losses)
        never = f" ({capped} never)" if capped else ""
        return cell([result["epochs"] for result in results], 0) + never

    lines = []
    for name, of_method in found.items():
        phases = range(len(of_method[0]["results"]))
        epochs = [of_phase(of_method, phase) for phase in phases]
        # Joint training has both tasks in one phase.
        cells = epochs if len(epochs) > 1 else epochs * len(TASKS)
        lines.append([STUDY.methods[name].title, *cells])
    return table(["method", *TASKS.values()], lines)


def _options(settings: dict[str, Any]) -> str:
    """The command's options that led to some settings."""
    chosen = {name: settings[name] for name in ("tokenizer", "label_map")}
    flags = [name for name in ("positions", "mask_padding") if settings[name]]
    words = [*(f"{name} {value}" for name, value in chosen.items()), *flags]
    return "".join(f" --{word.replace('_', '-')}" for word in words)


if __name__ == "__main__":
    main()
