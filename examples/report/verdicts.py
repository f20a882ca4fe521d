"""Which method is ahead, seed by seed: ``python -m examples.report.verdicts``."""

import argparse
import pathlib

import numpy as np

from examples.methods import classp, gram, joint, replay
from examples.methods.registry import sweeps
from examples.report import page
from examples.report.index import ROOT
from examples.report.measures import accuracy
from examples.report.paired import CONFIDENCE, Paired, paired
from examples.report.table import table
from examples.runner import arguments
from examples.runner.study import Study
from examples.sentiment import study as sentiment
from examples.streams import report as streams
from examples.streams.tables import average, pair
from examples.vision import study as vision

_OURS = ("classp", "classp_always", "classp_then", "gram", "gram_64")
"""The sweeps, or grids of them, that are ours on a stream; variants aren't compared."""
_NO_OTHERS = {classp.FAMILY, gram.FAMILY, joint.FAMILY, replay.FAMILY}
"""Ours, and what has examples of earlier tasks."""
_BOTH = "head_gram_64"
"""The sweep that puts another method's head on ours."""

PAPER: list[tuple[Study, str, list[tuple[str, str]]]] = [
    (
        vision.STUDY,
        "vision/float32",
        [
            ("classp", "sgd"),
            ("classp_rate_0.2", "sgd_rate_0.005"),
            ("classp_rate_0.2", "adam_rate_0.0001"),
            ("classp_rate_0.2", "ewc_1000"),
            ("classp_rate_0.2", "ewc_10000"),
            ("classp_second_relative_10", "classp_rate_0.2"),
            ("classp_second_relative_10", "ewc_10000"),
            ("classp_factored_rate_0.2", "classp_rate_0.2"),
            ("gram_64_1", "classp_rate_0.2"),
            ("gram_64_1", "ewc_10000"),
            ("gram_64_0.1", "classp_second_relative_10"),
            ("gram_64_0.1", "ewc_10000"),
            ("gram_64_0.1", "replay_0.01"),
        ],
    ),
    (
        sentiment.STUDY,
        "text/released",
        [
            ("classp", "sgd"),
            ("classp", "classp_adagrad"),
            ("classp", "ewc_paper"),
            ("classp", "adam"),
            ("classp_second_relative_10", "classp_adagrad"),
            ("classp_second_relative_10", "classp"),
        ],
    ),
]
"""Experiment, folder below ``results/paper``, and the methods to compare."""


_HEADER = ("points ahead", "seeds", "verdict")
_TITLE = f"""# Who is ahead

The mean difference over the seeds that both methods have, in points of accuracy on
the test set, and its {CONFIDENCE:.0%} interval by Student's t distribution. The first
method is *ahead* if all of the interval is above 0, *behind* if all of it is below, and
*tied* otherwise; so few seeds leave wide intervals and many ties. No correction is made
for the number of comparisons."""
_STREAMS = """## Streams

Average accuracy after the last task. The other is the one with the best mean there of
all that store no examples and aren't ours."""
_PAPER = """## The paper's two experiments

Test sets; of Financial PhraseBank, which has none, the training set."""
_MADE = """## How it was made

```
python -m examples.report.verdicts
```"""


def main(argv: list[str] | None = None) -> None:
    """Makes the page of the committed rows."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.report.verdicts",
        description="Makes verdicts.md of all rows below a folder of results: how far"
        " our methods are ahead of others, seed by seed, with intervals.",
        formatter_class=arguments.HelpFormatter,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=pathlib.Path,
        default=ROOT / "results",
        help="holds paper and streams; verdicts/verdicts.md is written there",
    )
    folder = parser.parse_args(argv).folder
    try:
        tables = _of_streams(folder), _of_the_paper(folder)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    sections = [_TITLE, _STREAMS, tables[0], _PAPER, tables[1], _MADE]
    file = folder / "verdicts" / "verdicts.md"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n\n".join(sections) + "\n")
    page.announce(tables, [file])


def _of_streams(folder: pathlib.Path) -> str:
    """Ours beside the best of the others that store no examples."""
    ours = [of.name for of in sweeps() if of.name in _OURS or of.grid in _OURS]
    lines = []
    for rows in sorted(folder.glob("streams/*/*/test/rows.jsonl")):
        study, found = streams.read(rows.parent)
        measured = {
            name: {pair(row): average(study, row) for row in of}
            for name, of in found.items()
        }
        titles = {name: study.methods[name].title for name in found}
        of_ours = [name for of in ours for name in study.groups[of] if name in found]
        others = [
            name
            for name in found
            if study.methods[name].family not in _NO_OTHERS
            and name not in study.groups[_BOTH]
        ]
        if not others:
            continue  # Of what there is nothing to compare with.
        best = max(others, key=lambda name: np.mean(list(measured[name].values())))
        for name in of_ours:
            compared = paired(measured[name], measured[best])
            if compared:
                what = [study.title, titles[name], titles[best]]
                lines.append([*what, *_cells(compared)])
    return table(
        ["stream", "ours", "best other without stored examples", *_HEADER], lines
    )


def _of_the_paper(folder: pathlib.Path) -> str:
    lines = []
    for study, below, pairs in PAPER:
        found, _ = page.read(study, folder / "paper" / below / "rows.jsonl")
        for one, other in pairs:
            for task, split in study.judged_on.items():
                by_seed = (
                    {row["seed"]: accuracy(row, task, split) for row in found[name]}
                    for name in (one, other)
                )
                compared = paired(*by_seed)
                if compared:
                    titles = (study.methods[name].title for name in (one, other))
                    lines.append([study.tasks[task], *titles, *_cells(compared)])
    return table(["accuracy at the end on", "one", "the other", *_HEADER], lines)


def _cells(compared: Paired) -> list[str]:
    return [str(compared), f"{compared.seeds}", compared.verdict]


if __name__ == "__main__":
    main()
