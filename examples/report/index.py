"""The index of the committed results: ``python -m examples.report.index``."""

import argparse
import os
import pathlib
import re
from typing import NamedTuple

from examples.report.table import table
from examples.runner import rows

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Measured(NamedTuple):
    """What is in a folder whose command leaves no rows.

    Attributes:
      what: was measured.
      commands: that made it.
    """

    what: str
    commands: tuple[str, ...]


WITHOUT_ROWS = {
    "demo": Measured(
        "Eight permutations of 4,000 real digits, five methods",
        ("python -m examples.demo --out results/demo",),
    ),
    "speed": Measured(
        "Updates and train steps, beside Optax's and PyTorch's",
        (
            "python -m benchmarks.update --turns 7",
            "python -m benchmarks.train_step --turns 7",
        ),
    ),
    "streams": Measured(
        "What a setting costs that is chosen on the other streams; what one too small"
        " or too large looks like",
        ("python -m examples.streams.regret", "python -m examples.streams.recipe"),
    ),
    "verdicts": Measured(
        "Who is ahead, with intervals over the seeds",
        ("python -m examples.report.verdicts",),
    ),
    "verify": Measured(
        "What the comparison with PyTorch classes says",
        ("python -m classp_jax.verify",),
    ),
    "your_own_stream": Measured(
        "The example for own data: four optimizers, digits in five tasks",
        ('python -m examples.your_own_stream "" results/your_own_stream',),
    ),
    "your_own_stream/fashion_mnist": Measured(
        "The same with Fashion-MNIST",
        (
            "python -m examples.your_own_stream fashion_mnist"
            " results/your_own_stream/fashion_mnist",
        ),
    ),
}
"""By the folder's path below ``results``."""


def main(argv: list[str] | None = None) -> None:
    """Writes the index."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.report.index",
        description="Writes results/README.md: a line for each folder of results.",
    )
    parser.parse_args(argv)
    path = ROOT / "results" / "README.md"
    path.write_text(index(ROOT))
    print(f"Written: {path}")


def index(root: pathlib.Path) -> str:
    """What the index says.

    Args:
      root: of the repository; its pages are README.md and those in ``docs``.

    Returns:
      A page of Markdown, links relative to ``results``.
    """
    results, shown = root / "results", pages_by_folder(root)
    lines = []
    for folder in folders(results):
        name = folder.relative_to(results).as_posix()
        if (folder / "rows.jsonl").exists():
            of_folder = rows.read(folder / "rows.jsonl")
            count, what = f"{len(of_folder)}", _what(folder, of_folder[0]["settings"])
            commands: tuple[str, ...] = (report(folder),)
        else:
            count, (what, commands) = "\N{EN DASH}", WITHOUT_ROWS[name]
        links = [
            f"[{page.relative_to(root)}]({os.path.relpath(page, results)})"
            for page in shown.get(folder, [])
        ]
        said = ", ".join(f"`{command}`" for command in commands)
        lines.append([f"[{name}]({name})", what, count, said, ", ".join(links)])
    header = ["folder", "what was measured", "rows", "made by", "shown in"]
    return "\n\n".join(
        [
            "# Results",
            "Made by `python -m examples.report.index`. Rows: lines of the folder's"
            " `rows.jsonl`, a seed of a method each; its table, made of them by the"
            " command here, ends with the commands that trained them.",
            table(header, lines) + "\n",
        ]
    )


def folders(results: pathlib.Path) -> list[pathlib.Path]:
    """The folders that hold files, but for the one that holds the index."""
    files = (path for path in results.rglob("*") if path.is_file())
    return sorted({path.parent for path in files} - {results})


def pages_by_folder(root: pathlib.Path) -> dict[pathlib.Path, list[pathlib.Path]]:
    """The pages that link to, show or include a file of each folder of results."""
    shown: dict[pathlib.Path, list[pathlib.Path]] = {}
    for page in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        for target in dict.fromkeys(targets(page)):
            of_folder = shown.setdefault(target.parent, [])
            if page not in of_folder:
                of_folder.append(page)
    return shown


def targets(page: pathlib.Path) -> list[pathlib.Path]:
    """The files to which a page's links lead, and those that it shows or includes."""
    return links(page.parent, page.read_text())


def links(folder: pathlib.Path, text: str) -> list[pathlib.Path]:
    """The same of a text, which lies in a folder."""
    found = re.findall(
        r"\]\((?!https?:)([^)#]+)[)#]|^```\{include\} (\S+)", text, re.MULTILINE
    )
    return [(folder / (link or included)).resolve() for link, included in found]


def _what(folder: pathlib.Path, settings: dict[str, object]) -> str:
    """The title of a folder's table, and what it doesn't say of the settings."""
    title = (folder / "table.md").read_text().splitlines()[0].removeprefix("# ")
    unsaid = [
        f"`--{name.replace('_', '-')} {settings[name]}`"
        for name in ("label_map", "tokenizer", "dtype")
        if name in settings
    ]
    otherwise = ["the sum in fewer bits"] * ("stored" in folder.parent.name)
    return ", ".join([title, *otherwise, *unsaid])


def report(folder: pathlib.Path) -> str:
    """The last of the commands that a folder's table names, which makes it."""
    commands = re.findall(
        r"^python -m .*\.report .*$", (folder / "table.md").read_text(), re.M
    )
    return str(commands[-1])


if __name__ == "__main__":
    main()
