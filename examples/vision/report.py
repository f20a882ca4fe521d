"""Tables and figures of the vision experiment: ``python -m examples.vision.report``."""

import argparse
import collections
import json
import pathlib
from typing import Any

from examples import rows
from examples.continual import Task
from examples.datasets import DatasetError
from examples.vision import data, figures, tables
from examples.vision.methods import ABLATION, FRONTS, GROUPS, METHODS
from examples.vision.tables import TASKS, Found

_MOST_LINES = 7  # In the figure along training.
_LINES = (
    *("classp", "classp_equation1", "sgd", "ewc_paper"),
    *(name for name in GROUPS["paper"] if "adagrad" in name),
    *GROUPS["paper"],
)


def main(argv: list[str] | None = None) -> None:
    """Makes the tables and figures of a folder's rows."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        write(args.folder, with_dropout=args.evaluate_with_dropout)
        if args.data_dir:
            save_samples(data.load(args.data_dir), args.folder)
    except (DatasetError, OSError, ValueError) as error:
        parser.error(str(error))


def write(
    folder: pathlib.Path,
    settings: dict[str, Any] | None = None,
    *,
    with_dropout: bool = False,
) -> None:
    """Writes the tables and figures.

    Args:
      folder: holds ``rows.jsonl``.
      settings: of the rows to show; by default those that most rows have.
      with_dropout: whether the figures show accuracies with dropout left on.

    Raises:
      ValueError: there are no rows, or something else.
    """
    found, left_out = read(folder / "rows.jsonl", settings)
    lines, not_drawn = training_lines(found)
    sections = [*_tables(found), *_along_training(lines, not_drawn)]
    sections += ["## How it was made", *_provenance(found, left_out, folder)]
    (folder / "table.md").write_text("\n\n".join(sections) + "\n")
    if _ablated(found):
        (folder / "ablation.md").write_text(f"{tables.ablation_table(found)}\n")
    _write_figures(found, lines, folder, with_dropout)


def save_samples(tasks: dict[str, Task], folder: pathlib.Path) -> None:
    """Draws images of each data set, the counterpart of the paper's Figure 1."""
    of_title = {TASKS[name]: task.train for name, task in tasks.items()}
    figures.save_samples(of_title, folder / "samples.png")


def read(
    path: pathlib.Path, settings: dict[str, Any] | None = None
) -> tuple[Found, int]:
    """Reads the rows of all methods.

    Args:
      path: the JSONL file.
      settings: of the rows; by default those that most rows have.

    Returns:
      The rows, and how many others the file has: of other methods or settings, or
      made again since.

    Raises:
      ValueError: the file holds no rows of this experiment, or something else.
    """
    all_rows = rows.read(path)
    counts = collections.Counter(
        json.dumps(row["settings"])
        for row in all_rows
        if row["settings"]["experiment"] == "vision"
    )
    if counts and settings is None:
        settings = json.loads(counts.most_common(1)[0][0])
    found = {}
    for name, method in METHODS.items():
        if of_method := rows.select(all_rows, method, settings or {}):
            found[name] = of_method
    if not found:
        raise ValueError(
            f"{path} holds no rows of this experiment; make some with"
            f" `python -m examples.vision --out {path.parent}`"
        )
    return found, len(all_rows) - len(_distinct(found))


def training_lines(found: Found) -> tuple[Found, list[str]]:
    """Chooses what the figure along training shows.

    Args:
      found: the rows.

    Returns:
      The rows behind each line's label, less the runs that went wrong; and what isn't
      drawn, with the reason.
    """
    names = [
        tables.best(front, found)
        for front in FRONTS
        if front.title in ("CLASSP, g² > mean(g²)", "EWC")
        and found.keys() & front.methods.keys()
    ]
    lines, not_drawn, drawn = {}, [], {}
    for name in dict.fromkeys([*names, *_LINES]):
        of_method = found.get(name, [])
        title, phases = METHODS[name].title, METHODS[name].phases
        well = [row for row in of_method if not tables.fate(row)]
        if len(well) < len(of_method):
            not_drawn.append(f"{title}: {tables.seeds(of_method)}")
        if well and phases in drawn.values():
            same = next(of for of, others in drawn.items() if others == phases)
            not_drawn.append(f"{title}: the same computation as {same}")
        elif well and len(lines) == _MOST_LINES:
            not_drawn.append(f"{title}: no room")
        elif well:
            lines[title], drawn[title] = well, phases
    return lines, not_drawn


def _tables(found: Found) -> list[str]:
    """The tables of table.md, each with its title and a caption."""
    sections = ["# MNIST, then Fashion-MNIST"]
    if found.keys() & GROUPS["paper"].keys():
        sections += [
            "## Table 1, side by side",
            tables.paper_table(found),
            "Accuracy after 4 epochs of MNIST and 1 of Fashion-MNIST, %, as the paper's"
            " code measures it: on the training sets, with dropout left on. Mean ±"
            " sample deviation over the seeds; the paper's over 10 runs. The paper's"
            " CLASSP rows stand here in three readings each.",
        ]
    sections += [
        "## The same runs, properly measured",
        tables.measured_table(found),
        "Dropout off; accuracies, %. Forgetting: points of held-out accuracy on MNIST"
        " lost since its last epoch. Updated: the share of weights that a step moves,"
        " %, at eight steps of each phase; what isn't finite counts as moved. Bytes:"
        " optimizer state and stored examples on the second task. Best of n:"
        " of the n settings of a front, the one with the best mean of both held-out"
        " accuracies over its seeds, so chosen on what it is reported on. Joint"
        " training has both data sets at once.",
        "Learns no MNIST: below 15% after MNIST; ends at chance: below 15% on"
        " both in the end; not finite: a weight is infinite or NaN. Means are of all"
        " seeds, those too.",
    ]
    if found.keys() & GROUPS["fronts"].keys():
        sections += [
            "## Every point of every front",
            tables.fronts_table(found),
            "Held-out test accuracies at the end, dropout off, %; the best mean of each"
            " front in bold.",
        ]
    return sections


def _along_training(lines: Found, not_drawn: list[str]) -> list[str]:
    if not lines:
        return []
    caption = (
        "training.png shows accuracies on the first 1,000 images of each test set,"
        " the mean over the seeds and a deviation to both sides."
    )
    if not_drawn:
        caption += f" Not drawn: {'; '.join(not_drawn)}."
    return ["## Along training", caption]


def _write_figures(
    found: Found, lines: Found, folder: pathlib.Path, with_dropout: bool
) -> None:
    def file(name: str) -> pathlib.Path:
        return folder / f"{name}{'_with_dropout' * with_dropout}.png"

    fronts = [
        (front, {name: found[name] for name in front.methods if name in found})
        for front in FRONTS
        if found.keys() & front.methods.keys()
    ]
    if fronts:
        joint = found.get("joint", [])
        figures.save_fronts(fronts, joint, file("fronts"), with_dropout=with_dropout)
    if lines:
        figures.save_training(lines, file("training"), with_dropout=with_dropout)
    if _ablated(found):
        points = [(ABLATION[name], found[name]) for name in ABLATION if name in found]
        figures.save_ablation(points, file("ablation"), with_dropout=with_dropout)


def _ablated(found: Found) -> bool:
    """Whether the ablation was run: a front, too, has a few of its points."""
    return any(row["method"] in ABLATION for row in _distinct(found))


def _provenance(found: Found, left_out: int, folder: pathlib.Path) -> list[str]:
    """The commands, devices and versions behind the tables; no machine's paths."""
    out = folder.name if folder.is_absolute() else str(folder)
    of_rows = _distinct(found)
    # The name of a group where all of its methods have as many seeds.
    names, grouped = collections.defaultdict(list), set()
    for group, methods in GROUPS.items():
        counts = {len(found.get(name, [])) for name in methods}
        if len(counts) == 1 and counts != {0}:
            names[counts.pop()].append(group)
            grouped |= methods.keys()
    for name in {row["method"] for row in of_rows} - grouped:
        names[len(found[name])].append(name)
    batch_size = of_rows[0]["settings"]["batch_size"]
    commands = [
        f"python -m examples.vision --methods {' '.join(sorted(of_count))}"
        f" --seeds {count} --batch-size {batch_size} --out {out}"
        for count, of_count in sorted(names.items())
    ]
    commands.append(f"python -m examples.vision.report {out}")
    made_on = collections.Counter(
        ", ".join([part["device"], *(f"{k} {v}" for k, v in part["versions"].items())])
        for row in of_rows
        for part in row["results"]
    )
    if len(made_on) == 1:
        where = f"{len(of_rows)} rows, made on {next(iter(made_on))}."
    else:
        where = "Rows of several devices or versions:\n\n" + "\n".join(
            f"- {count} phases trained on {device}" for device, count in made_on.items()
        )
    others = f"Left out: {left_out} rows of other methods or settings, or made again."
    code = "\n".join(["```", *commands, "```"])
    return [code, where, *([others] if left_out else [])]


def _distinct(found: Found) -> list[dict[str, Any]]:
    """The rows, each once: that of a computation may stand under several names."""
    return list({id(row): row for of in found.values() for row in of}.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.vision.report",
        description=(
            "Makes table.md, fronts.png and training.png, and of the ablation's rows"
            " ablation.md and ablation.png, from the rows that `python -m"
            " examples.vision` wrote."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=pathlib.Path,
        default=pathlib.Path("results/vision"),
        help="holds rows.jsonl; the tables and figures are written there",
    )
    parser.add_argument(
        "--evaluate-with-dropout",
        action="store_true",
        help="draw the figures from the accuracies with dropout left on, as files"
        " named *_with_dropout.png",
    )
    parser.add_argument(
        "--data-dir",
        type=pathlib.Path,
        help="TFDS's folder of data sets, for samples.png, which isn't made without",
    )
    return parser


if __name__ == "__main__":
    main()
