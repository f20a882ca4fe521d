"""The page of results that each experiment makes of its rows."""

import collections
import pathlib
from collections.abc import Iterable
from typing import Any

from examples.report import tables
from examples.report.style import Line, Lines
from examples.report.tables import Found
from examples.runner import rows
from examples.runner.plan import Phase
from examples.runner.study import SPLIT_TITLES, Study, families
from examples.runner.words import count

_MOST_LINES = 6  # In the figure along training.


def read(
    study: Study, path: pathlib.Path, settings: dict[str, Any] | None = None
) -> tuple[Found, int]:
    """Reads the rows of all methods.

    Args:
      study: what was compared.
      path: the JSONL file.
      settings: of the rows; by default those that most rows have.

    Returns:
      The rows, and how many others the file has: of other methods or settings, or
      made again since.

    Raises:
      ValueError: the file holds no rows of this experiment, or something else.
    """
    all_rows = rows.read(path)
    if settings is None:
        settings = rows.most_settings(
            row for row in all_rows if row["settings"]["experiment"] == study.experiment
        )
    found = of_settings(study, all_rows, settings or {})
    if not found:
        raise no_rows(study, path)
    return found, len(all_rows) - len(distinct(found))


def no_rows(study: Study, path: pathlib.Path) -> ValueError:
    """The error where a file holds none of an experiment."""
    return ValueError(
        f"{path} holds no rows of this experiment; make some with"
        f" `python -m examples.{study.experiment} --out {path.parent}`"
    )


def of_settings(
    study: Study, all_rows: list[dict[str, Any]], settings: dict[str, Any]
) -> Found:
    """The rows of all methods that have these settings of the experiment."""
    selected = rows.select_each(all_rows, study.methods, settings)
    return {name: of_method for name, of_method in selected.items() if of_method}


def announce(tables_of_run: Iterable[str], files: Iterable[pathlib.Path]) -> None:
    """Prints what a command ends with.

    Args:
      tables_of_run: those that show what it has trained; without any lines none.
      files: that it writes, where there was anything to show.
    """
    for table in tables_of_run:
        if table.count("\n") > 1:
            print(f"\n{table}")
    print()
    for file in filter(pathlib.Path.exists, files):
        print(f"Written: {file}")


def sections(study: Study, found: Found) -> list[str]:
    """The tables of a page, each with its title and a caption.

    Args:
      study: what was compared.
      found: the rows.

    Returns:
      Paragraphs of Markdown.
    """
    first = study.tasks[study.first]
    paragraphs = [f"# {study.title}"]
    if found.keys() & study.groups["paper"].keys():
        paragraphs += [
            f"## {study.table}, side by side",
            tables.paper_table(study, found),
            "Accuracy after both, %, as the paper's code measures it: on the training"
            " sets, with dropout left on. Mean ± sample deviation over the seeds; the"
            " paper's over 10 runs. The paper's CLASSP rows stand here in three"
            f" readings each. {first} at first: when it was learned; forgetting: the"
            " points of that lost.",
        ]
    paragraphs += [
        "## The same runs, properly measured",
        tables.measured_table(study, found),
        f"Dropout off; accuracies, %.{_held_out(study)} Mean: of both, held out where"
        f" there is such a set. Forgetting: points of that accuracy on {first} lost"
        " since its last epoch. Updated: the share of weights that a step moves, %, on"
        " average over steps along each phase; what isn't finite counts as moved."
        " Bytes: optimizer state and stored examples on the second task. Best of n: of"
        " the n settings of a front, the one with the best mean over its seeds, so"
        " chosen on what it is reported on. Joint training has both data sets at once.",
        f"Learns no {first}: below {study.nothing[study.first]:g}% after {first}; ends"
        f" at chance: below {_nothing(study)} in the end; not finite: a weight is"
        " infinite or NaN. Means are of all seeds, those too; the others: of those with"
        " which nothing went wrong.",
    ]
    if any(found.keys() & front.methods.keys() for front in study.fronts):
        paragraphs += [
            "## Every point of every front",
            tables.fronts_table(study, found),
            f"Accuracies at the end, dropout off, %: {_judged_on(study)}; the best mean"
            " of each front in bold.",
        ]
    return paragraphs


def _held_out(study: Study) -> str:
    return "".join(
        f" {study.tasks[task]} has no test set."
        for task, split in study.judged_on.items()
        if split == "train"
    )


def _nothing(study: Study) -> str:
    return " and ".join(
        f"{study.nothing[t]:g}% of {study.tasks[t]}" for t in study.tasks
    )


def _judged_on(study: Study) -> str:
    return ", ".join(
        f"{study.tasks[task]}'s {SPLIT_TITLES[split]}"
        for task, split in study.judged_on.items()
    )


def training_lines(
    study: Study, found: Found, names: Iterable[str]
) -> tuple[Lines, list[str]]:
    """Chooses what the figure along training shows.

    Args:
      study: what was compared.
      found: the rows.
      names: of methods, the first ones first.

    Returns:
      The lines by their labels, less the runs that went wrong; and what isn't drawn,
      with the reason.
    """
    lines: Lines = {}
    not_drawn: list[str] = []
    drawn: dict[str, tuple[Phase, ...]] = {}
    for name in dict.fromkeys(names):
        of_method = found.get(name, [])
        title, phases, _, family = study.methods[name]
        well = tables.went_well(study, of_method)
        if wrong := len(of_method) - len(well):
            fates = filter(None, (tables.fate(study, row) for row in of_method))
            why = ", ".join(dict.fromkeys(fates))
            not_drawn.append(
                f"{title}, {wrong} of {count(len(of_method), 'seed')}: {why}"
            )
        if well and phases in drawn.values():
            same = next(of for of, others in drawn.items() if others == phases)
            not_drawn.append(f"{title}: the same computation as {same}")
        elif well and len(lines) == _MOST_LINES:
            not_drawn.append(f"{title}: no room")
        elif well:
            lines[title], drawn[title] = Line(family, well), phases
    return lines, not_drawn


def along_training(lines: Lines, not_drawn: list[str], caption: str) -> list[str]:
    """What the figures along training show.

    Args:
      lines: what they show.
      not_drawn: what they don't, with the reasons.
      caption: in a sentence or two.

    Returns:
      Paragraphs of Markdown, none if there are no such figures.
    """
    if not lines:
        return []
    if not_drawn:
        caption += f" Not drawn: {'; '.join(not_drawn)}."
    return ["## Along training", caption]


def provenance(
    study: Study,
    runs: dict[str, Found],
    left_out: int,
    folder: pathlib.Path,
    options: str = "",
    *,
    figures: bool = True,
) -> list[str]:
    """The commands, devices and versions behind the tables; no machine's paths.

    Args:
      study: what was compared.
      runs: the rows, by what more of the command's options they were made with.
      left_out: how many other rows there are.
      folder: where they are.
      options: of the command, further ones of all rows.
      figures: whether there are any.

    Returns:
      Paragraphs of Markdown.
    """
    out = folder.name if folder.is_absolute() else str(folder)
    of_rows = [row for found in runs.values() for row in distinct(found)]
    settings = of_rows[0]["settings"]
    options = f" --batch-size {settings['batch_size']}{options}"
    of_dtype = f" --dtype {settings['dtype']}" if "dtype" in settings else ""
    commands = [
        f"python -m examples.{study.experiment}"
        f" --methods {' '.join(families(sorted(of_count)))}"
        f" --seeds {seeds}{options}{more}{of_dtype} --out {out}"
        for more, found in runs.items()
        for seeds, of_count in sorted(_names_by_count(study, found).items())
    ]
    report = f"python -m examples.{study.experiment}.report {out}"
    commands.append(report + " --no-figures" * (not figures))
    made_on = collections.Counter(
        ", ".join([part["device"], *(f"{k} {v}" for k, v in part["versions"].items())])
        for row in of_rows
        for part in row["results"]
    )
    if len(made_on) == 1:
        where = f"{count(len(of_rows), 'row')}, made on {next(iter(made_on))}."
    else:
        where = "Rows of several devices or versions:\n\n" + "\n".join(
            f"- {count(phases, 'phase')} trained on {device}"
            for device, phases in made_on.items()
        )
    gaps = [
        f"{name} {', '.join(str(row['seed']) for row in of_method)}"
        + more * (len(runs) > 1)
        for more, found in runs.items()
        for name, of_method in found.items()
        if len(of_method) <= _last_seed(of_method)
    ]
    paragraphs = ["## How it was made", "\n".join(["```", *commands, "```"]), where]
    if gaps:
        paragraphs.append(f"Of some methods only these seeds: {'; '.join(gaps)}.")
    others = f"Left out: {count(left_out, 'row')} of other methods or settings, or made"
    return [*paragraphs, *[f"{others} again."] * (left_out > 0)]


def _names_by_count(study: Study, found: Found) -> dict[int, list[str]]:
    """What ``--methods`` names, by the number of seeds.

    The name of a group where all of its methods have as many seeds, unless those of
    groups before it are the same.
    """
    names: dict[int, list[str]] = collections.defaultdict(list)
    grouped: set[str] = set()
    for group, methods in study.groups.items():
        counts = {_last_seed(found.get(name, [])) + 1 for name in methods}
        if len(counts) == 1 and counts != {0} and not methods.keys() <= grouped:
            names[counts.pop()].append(group)
            grouped |= methods.keys()
    for name, of_method in found.items():
        # Of several names for one computation that under which it was run.
        run_as = of_method[0]["method"]
        if name not in grouped and (run_as == name or run_as not in found):
            names[_last_seed(of_method) + 1].append(name)
    return names


def _last_seed(of_method: list[dict[str, Any]]) -> int:
    return max((row["seed"] for row in of_method), default=-1)


def distinct(found: Found) -> list[dict[str, Any]]:
    """The rows, each once: that of a computation may stand under several names."""
    return list({id(row): row for of in found.values() for row in of}.values())
