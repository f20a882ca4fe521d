"""Table and figure of the experiment: ``python -m examples.language.report``."""

import pathlib
from collections.abc import Iterable
from typing import Any

from examples.language.figures import save_fronts
from examples.language.study import LIKE, study
from examples.language.tables import best, methods_table, phases_table
from examples.report import page
from examples.report.tables import Found
from examples.runner import arguments, rows
from examples.runner.study import Study

_SHOWN = 20  # Methods, each with all of its settings, in a printed table.


def main(argv: list[str] | None = None) -> None:
    """Makes the table and figure of a folder's rows."""
    parser = arguments.of_report(
        study(LIKE),
        "Makes table.md and fronts.png from the rows that `python -m examples.language`"
        " wrote, and prints the table.",
        dropout=False,
    )
    args = parser.parse_args(argv)
    try:
        write(args.folder, figures=args.figures)
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
    """Writes the table and figure, and prints where.

    Args:
      folder: holds ``rows.jsonl``.
      settings: of the rows to show; by default those that most rows have.
      with_dropout: unused: the model has none.
      methods: those whose lines of the table are printed; by default all.
      figures: whether to draw any.

    Raises:
      ValueError: there are no rows, or something else.
    """
    del with_dropout
    path = folder / "rows.jsonl"
    compared = study(settings or _most(path))
    found, left_out = page.read(compared, path, settings)
    of_all = next(iter(found.values()))[0]["settings"]
    first, *_ = compared.tasks
    part = "validation" if of_all["validation"] else "test"
    sections = [
        f"# {compared.title}",
        methods_table(compared, found),
        f"Bits a byte on the {part} parts, lower is better; mean ± sample deviation"
        f" over the seeds. Kept: of {first} in the end. Learned: of each later text"
        " just after its own phase, the mean over these. Mean: of both; the least of"
        " each method's values is in bold, so chosen on what it is reported on."
        " Average: of all texts in the end. Worst rise:"
        f" of the bits of {first} along the second phase, above what they were before."
        " Bytes a weight: of the optimizer's state and windows kept, in the last phase."
        " KB/s: of text, in the last phase, the replayed too.",
        "## After each text",
        phases_table(compared, found),
        "Of each method the value with the least mean. Columns: bits of a text, behind"
        " which text's phase.",
        *page.provenance(
            compared, {"": found}, left_out, folder, _options(of_all), figures=figures
        ),
    ]
    (folder / "table.md").write_text("\n\n".join(sections) + "\n")
    files = [path, folder / "table.md"]
    if figures:
        save_fronts(compared, found, folder / "fronts.png")
        files.append(folder / "fronts.png")
    page.announce([methods_table(compared, _to_print(compared, found, methods))], files)


def _most(path: pathlib.Path) -> dict[str, Any]:
    """The settings that most rows have."""
    most = rows.most_settings(
        row for row in rows.read(path) if row["settings"]["experiment"] == "language"
    )
    if most is None:
        raise page.no_rows(study(LIKE), path)
    return most


def _to_print(study: Study, found: Found, names: Iterable[str] | None) -> Found:
    """The rows of these methods; of more than fit a screen each front's best alone."""
    of = {name: found[name] for name in names or found if name in found}
    if len(of) <= _SHOWN:
        return of
    swept = {name for front in study.fronts for name in front.methods}
    kept = {best(f, of) for f in study.fronts if of.keys() & f.methods.keys()}
    return {n: rows for n, rows in of.items() if n in kept or n not in swept}


def _options(settings: dict[str, Any]) -> str:
    """The command's further ones."""
    texts = " ".join(f"{name}={name}.txt" for name in settings["examples"])
    sizes = "".join(
        f" --{name} {settings[name]}"
        for name in ("width", "layers", "heads", "context")
    )
    pairs = "".join(
        f" --{name} {' '.join(map(str, settings[name]))}"
        for name in ("bytes", "epochs")
        if name in settings
    )
    validation = " --validation" * settings["validation"]
    return f" --text {texts}{sizes}{pairs}{validation}"


if __name__ == "__main__":
    main()
