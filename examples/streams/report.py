"""Tables and figures of a stream of tasks: ``python -m examples.streams.report``."""

import argparse
import collections
import json
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from examples.datasets.stream import Stream, benchmarks
from examples.models.registry import models
from examples.report import page
from examples.report.tables import Found, to_print
from examples.runner import arguments, rows
from examples.runner.study import Study
from examples.streams.figures import FIGURES, chosen
from examples.streams.study import study
from examples.streams.tables import LONG, published_table, stream_table

_LEARNED = " Learned: the accuracy on a task just after it, the mean over some tasks."


def main(argv: list[str] | None = None) -> None:
    """Makes the table and figures of a folder's rows."""
    stream = Stream("permuted_mnist", "domain", 10)
    parser = arguments.of_report(
        study(stream, 1, 64),
        "Makes table.md from the rows that `python -m examples.streams` wrote, and"
        " prints the table. Also makes matrices.png and curves.png, but not of rows"
        " made with --validation.",
    )
    args = parser.parse_args(argv)
    try:
        write(
            args.folder,
            with_dropout=args.evaluate_with_dropout,
            figures=args.figures,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))


def command(
    name: str,
    description: str,
    holds: str,
    write: Callable[[pathlib.Path], None],
    argv: list[str] | None,
) -> None:
    """Does what a command says that makes a page of several streams' rows.

    Args:
      name: of the command's module.
      description: of the command.
      holds: what its folder has, and what is written there.
      write: makes the page.
      argv: its arguments, None for those of the process.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.streams.{name}",
        description=description,
        formatter_class=arguments.HelpFormatter,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=pathlib.Path,
        default=pathlib.Path("results/streams"),
        help=holds,
    )
    args = parser.parse_args(argv)
    try:
        write(args.folder)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def read(
    folder: pathlib.Path, settings: dict[str, Any] | None = None
) -> tuple[Study, Found]:
    """Reads a folder's rows of one stream, those of all of its seeds.

    Args:
      folder: holds ``rows.jsonl``.
      settings: of the rows; by default those that most have.

    Returns:
      What was compared, and the rows: those of each of the stream's seeds, one behind
      the other.

    Raises:
      ValueError: there are no rows, or something else.
    """
    compared, runs, _, _ = _read(folder, settings)
    return compared, _together(runs)


def write(
    folder: pathlib.Path,
    settings: dict[str, Any] | None = None,
    *,
    with_dropout: bool = False,
    methods: Iterable[str] | None = None,
    figures: bool = True,
) -> None:
    """Writes the table and figures, and prints where.

    Args:
      folder: holds ``rows.jsonl``.
      settings: of the rows to show, whatever the stream's seed; by default those that
        most have.
      with_dropout: whether the figures show accuracies with dropout left on.
      methods: those whose lines of the table are printed; by default all.
      figures: whether to draw any; of a validation stream there are none.

    Raises:
      ValueError: there are no rows, or something else.
    """
    compared, runs, settings, left_out = _read(folder, settings)
    found = _together(runs)
    stream = _stream(settings)
    on = "held-out tenth of the training set" if stream.validation else "test set"
    options = "".join(
        f" --{name.replace('_', '-')} {settings[name]}"
        for name in ("benchmark", "scenario", "tasks", "epochs", "model", "loss")
        if name in settings  # Not of the default loss.
    )
    by_options = {
        f" --stream-seed {seed}" + " --validation" * stream.validation: of_seed
        for seed, of_seed in runs.items()
    }
    of_streams = ""
    if len(runs) > 1:
        of_streams = f" and the streams of seeds {', '.join(map(str, runs))}"
    sections = [
        f"# {compared.title}",
        stream_table(compared, found),
        f"Accuracies on the {on}, dropout off, %; mean ± sample deviation over the"
        f" seeds{of_streams}. Average accuracy: on all tasks after the last. Backward"
        " transfer, forgetting, forward transfer: as `classp_jax` defines them, in"
        " points; joint training has none, as it learns all tasks at once. Bytes:"
        " optimizer state and stored images, at most. Seconds: the median of a seed's"
        " training, the first one's with compilation. Bold: the best of a method's"
        " settings." + _LEARNED * (len(compared.tasks) >= LONG),
        *_published(stream),
        *page.provenance(
            compared, by_options, left_out, folder, options, figures=figures
        ),
    ]
    (folder / "table.md").write_text("\n\n".join(sections) + "\n")
    files = [folder / "rows.jsonl", folder / "table.md"]
    if figures and chosen(compared, found) and not stream.validation:
        suffix = "_with_dropout" * with_dropout
        for name, save in FIGURES.items():
            path = folder / f"{name}{suffix}.png"
            save(compared, found, path, with_dropout=with_dropout)
            files.append(path)
    shown = to_print(compared, found, methods)
    page.announce([stream_table(compared, shown)], files)


def _published(stream: Stream) -> list[str]:
    """Paragraphs of Markdown, none if there is nothing."""
    published = published_table(stream)
    is_full = stream.tasks == stream.definition.tasks
    if not published or stream.validation or not is_full:
        return []
    return [
        "## Published",
        published,
        "Average accuracy, %, by the [Continual Learning Baselines]"
        "(https://github.com/ContinualAI/continual-learning-baselines) of Avalanche, on"
        " networks and for epochs of their own. Online: each example is seen once.",
    ]


def _read(
    folder: pathlib.Path, settings: dict[str, Any] | None
) -> tuple[Study, dict[int, Found], dict[str, Any], int]:
    """What was compared, the rows by the stream's seed, their settings, and the others.

    Those with the seed of the settings have these; those with another one what most of
    them have that is otherwise alike. Of the others how many there are.
    """
    path = folder / "rows.jsonl"
    all_rows = rows.read(path)
    settings = settings or _most(path, all_rows)
    stream = _stream(settings)
    compared = study(stream, settings["epochs"], settings["batch_size"])
    title = models()[settings["model"]].title.format(
        inputs=math.prod(stream.definition.shape), outputs=stream.outputs
    )
    if "loss" in settings:
        title += f", the loss over {settings['loss']} classes"
    compared = compared._replace(title=compared.title + title)
    counts = collections.Counter(
        json.dumps(row["settings"])
        for row in all_rows
        if of_any_seed(row["settings"]) == of_any_seed(settings)
    )
    of_seeds: dict[int, dict[str, Any]] = {settings["seed"]: settings}
    for text, _ in counts.most_common():
        alike = json.loads(text)
        of_seeds.setdefault(alike["seed"], alike)
    runs = {
        seed: page.of_settings(compared, all_rows, of_seeds[seed])
        for seed in sorted(of_seeds)
    }
    runs = {seed: found for seed, found in runs.items() if found}
    if not runs:
        raise page.no_rows(compared, path)
    shown = sum(len(page.distinct(found)) for found in runs.values())
    return compared, runs, settings, len(all_rows) - shown


def of_any_seed(settings: dict[str, Any]) -> dict[str, Any]:
    """A row's settings without the stream's seed, and how many examples it leads to."""
    return {k: v for k, v in settings.items() if k not in ("seed", "examples")}


def _together(runs: dict[int, Found]) -> Found:
    """The rows of all of a stream's seeds."""
    together: Found = {}
    for found in runs.values():
        for name, of_method in found.items():
            together[name] = together.get(name, []) + of_method
    return together


def _most(path: pathlib.Path, all_rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings that most rows of streams have."""
    most = rows.most_settings(
        row
        for row in all_rows
        if row["settings"]["experiment"] == "streams"
        and row["settings"].keys() >= {*Stream._fields, "epochs", "batch_size"}
        and str(row["settings"]["benchmark"]) in benchmarks()
        and str(row["settings"].get("model")) in models()
    )
    if most is None:
        raise ValueError(
            f"{path} holds no rows of a stream; make some with `python -m"
            f" examples.streams --out {path.parent}`"
        )
    return most


def _stream(settings: dict[str, Any]) -> Stream:
    return Stream(**{name: settings[name] for name in Stream._fields})


if __name__ == "__main__":
    main()
