"""Each row that a page pastes says what the row of the results says that it names."""

import functools
import itertools
import re

import pytest

from examples.report import measures
from examples.report.page import read
from examples.sentiment.study import STUDY as TEXT
from examples.vision.study import STUDY as VISION
from tests import pages
from tests.pages import ROOT, figures, of_results

DASH = "\N{EN DASH}"
FLOAT32, RELEASED = "paper/vision/float32", "paper/text/released"


def row_of(file, name, *columns, caption=""):
    """The cells of some columns, of the one table that has them and the row."""
    found = {
        tuple(row[of.header.index(column)] for column in columns)
        for of in of_results(file)
        if {*columns} <= {*of.header} and of.caption.startswith(caption)
        for row in of.rows
        if row[0] == name
    }
    (cells,) = found
    return cells


def averages(file):
    """The average accuracies of a stream, by the methods without their settings."""
    column = of_results(file)[0].column("average accuracy")
    return {re.sub(r", [αλκ] [\de.-]+$", "", name): of for name, of in column.items()}


def best_of_the_others(file):
    """What may stand for the best of those that neither CLASSP nor data are part of."""
    others = {
        name: of
        for name, of in averages(file).items()
        if not re.search("CLASSP|Replay|Joint", name)
    }
    most = max(float(of.split()[0]) for of in others.values())
    return {
        f"{'online EWC' if 'online' in name else name.split(',')[0]} {of}"
        for name, of in others.items()
        if float(of.split()[0]) == most
    }


def linked(cell):
    """The file of results to which a cell leads, if to any."""
    found = re.search(r"\]\((?:\.\./)?results/([^)]+)\)", cell)
    return found and found[1]


OF_STREAMS = {
    "CLASSP": "CLASSP",
    "replay": "Replay",
    "of 12 to 60 images": "Replay, 12 images",
    "the decay on from the first step": "CLASSP, decay always on",
    "a sum for each direction": "CLASSP, 64 directions",
    "a sum for each direction, α 0.2": "CLASSP, 64 directions, α 0.2",
    "a sum for each direction, tasks announced, α 0.2": (
        "CLASSP, 64 directions, tasks announced, α 0.2"
    ),
    "all directions in full, α 0.2": "CLASSP, directions, α 0.2",
    "SGD at 0.05 on the first task": "SGD at 0.05, then CLASSP",
    "as the paper runs it, ε 10⁻⁵": "CLASSP",
    "ε 1": "CLASSP, ε 1",
    "ε 10⁻⁵, decay always on": "CLASSP, decay always on",
    "ε 10⁻⁵, SGD at 0.05 first": "SGD at 0.05, then CLASSP",
}
OF_PAPER = {
    (FLOAT32, "CLASSP"): "CLASSP, α 0.2",
    (FLOAT32, "best of the others without data"): "EWC, λ 10000",
    (FLOAT32, "replay"): "Replay, share 0.01",
    (FLOAT32, "of 12 to 60 images"): "Replay, share 0.001",
    (FLOAT32, "CLASSP with a relative threshold"): (
        "CLASSP, g² > θ·mean(g²) on Fashion-MNIST, θ 10"
    ),
    (RELEASED, "CLASSP"): "CLASSP, Algorithm 1, no θ",
    (RELEASED, "best of the others without data"): "AdaGrad instance, Algorithm 1",
    (RELEASED, "CLASSP with a relative threshold"): (
        "CLASSP, g² > θ·mean(g²) on IMDB, θ 10 (best of 2)"
    ),
}
JUDGED_ON = {
    FLOAT32: ("MNIST", "Fashion-MNIST"),
    RELEASED: ("PhraseBank, training set", "IMDB, test set"),
}


def streams_and_papers(table):
    """A row a stream, which its link names, or the same with another CLASSP."""
    file = None
    for title, *cells in table.rows:
        same = title.startswith("the same, ")
        file = file if same else linked(title)
        for column, pasted in zip(table.header[1:], cells, strict=True):
            if not figures(pasted):
                continue
            what = title.removeprefix("the same, ") if same else column
            if file.startswith("paper"):
                folder = file.removesuffix("/table.md")
                name = OF_PAPER.get((folder, what))
                ours = name and " / ".join(row_of(file, name, *JUDGED_ON[folder]))
                if name and what.startswith("best"):
                    ours = f"{name.split()[0].strip(',')} {ours}"
            elif what.startswith("best"):
                of_best = best_of_the_others(file)
                ours = pasted if pasted in of_best else min(of_best)
            else:
                ours = averages(file).get(OF_STREAMS.get(what))
            yield f"{title}, {column}", pasted, ours


def floors(table):
    """A row an optimizer, a column what it updates."""
    captions = {
        "the paper's CNN": "cnn",
        "its Transformer": "transformer",
        "one array of 100 M": "array",
        "1,000 of 32x32": "tensors",
    }
    for name, *cells in table.rows:
        for title, pasted in zip(table.header[1:], cells, strict=True):
            median, least, most = row_of(
                "speed/update.md",
                name.replace(", then", ","),
                *("÷ floor: median", "smallest", "largest"),
                caption=captions[title],
            )
            yield f"{name}, {title}", pasted, f"{median} ({least} to {most})"


def memory_and_accuracy(table):
    """A row a method: its memory, what it keeps and learns, and its update's time."""
    of = {
        "CLASSP": ("CLASSP, α 0.2", "classp, p 1"),
        "CLASSP, factored": ("CLASSP, factored sum, α 0.2", "classp, factored, p 1"),
        "CLASSP, g² > 10·mean(g²)": (
            "CLASSP, g² > θ·mean(g²) on Fashion-MNIST, θ 10",
            None,
        ),
        "CLASSP, factored, g² > 10·mean(g²)": (
            "CLASSP, factored sum, g² > θ·mean(g²) on Fashion-MNIST, θ 10",
            None,
        ),
        "EWC, λ 10,000": ("EWC, λ 10000", "ewc_penalty, optax.sgd"),
        "Adam, α 0.0001": ("Adam, α 0.0001", "optax.adam"),
        "AdaGrad, α 0.002": ("AdaGrad, α 0.002", "optax.adagrad"),
        "SGD, α 0.005": ("SGD, α 0.005", "optax.sgd"),
    }
    for name, *pasted in table.rows:
        method, optimizer = of[name]
        columns = ("bytes a weight", "MNIST", "Fashion-MNIST")
        ours = row_of(f"{FLOAT32}/summary.md", method, *columns)
        for caption, digits in (("cnn", 2), ("transformer", 1)):
            if not optimizer:
                ours += (DASH,)
                continue
            (ms,) = row_of("speed/update.md", optimizer, "ms", caption=caption)
            ours += (f"{float(ms):.{digits}f}",)
        yield name, tuple(pasted), ours


def on_a_gpu(table):
    """A row an optimizer: its memory, and the time of an update."""
    for name, *pasted in table.rows:
        of = {
            caption: row_of(
                "speed/update_gpu.md",
                name.replace(", then", ","),
                *("state, bytes a weight", "ms"),
                caption=caption,
            )
            for caption in ("transformer", "cnn")
        }
        (memory, ms), (of_cnn, ms_of_cnn) = of.values()
        memory += f" (CNN {of_cnn})" * (of_cnn != memory)
        yield name, pasted, [memory, ms, ms_of_cnn]


def train_steps(table):
    """The results' own table."""
    (ours,) = of_results("speed/train_step.md")
    yield "all", table[1:], ours[1:]


def demos(table):
    """The results' own table."""
    (ours,) = of_results("demo/demo.md")
    yield "all", table[1:], ours[1:]


@functools.cache
def first_seeds(text, dtype, name):
    """The rows of a method on text or images, in the order of their seeds."""
    study, folder = (TEXT, RELEASED) if text else (VISION, FLOAT32)
    if dtype == "bfloat16":
        folder = f"paper/{'text' if text else 'vision'}/bfloat16"
    found, _ = read(study, ROOT / "results" / folder / "rows.jsonl")
    return sorted(found.get(name, []), key=lambda row: row["seed"])


def of_two_seeds(task):
    def of(dtype):
        seeds = first_seeds(False, dtype, "classp")[:2]
        return ", ".join(f"{measures.accuracy(row, task):.1f}" for row in seeds)

    return of


def of_adam(of_row):
    return lambda dtype: of_row(first_seeds(True, dtype, "adam")[0])


def of_classp(of_row):
    def of(dtype):
        of_seeds = first_seeds(True, dtype, "classp")
        return of_row(of_seeds[0]) if of_seeds else None  # It was stopped.

    return of


def accuracy_after(epochs):
    def of(row):
        steps, accuracies = measures.curve(row, "imdb")
        points = len(row["results"][-1]["curve"]["step"])
        steps = (steps - steps[-points])[-points:]
        of_epochs = steps / steps[-1] * row["results"][-1]["epochs"]
        return f"{accuracies[-points:][of_epochs.round(6) == epochs].item():.1f}"

    return of


BITS = {
    "CLASSP: MNIST, test set, after both": of_two_seeds("mnist"),
    "CLASSP: Fashion-MNIST, test set": of_two_seeds("fashion_mnist"),
    "Adam: PhraseBank, after both": of_adam(
        lambda row: f"{measures.accuracy(row, 'phrase_bank', 'train'):.1f}"
    ),
    "Adam: IMDB, test set": of_adam(
        lambda row: f"{measures.accuracy(row, 'imdb'):.1f}"
    ),
    "Adam: epochs of PhraseBank, of IMDB": of_adam(
        lambda row: ", ".join(f"{phase['epochs']}" for phase in row["results"])
    ),
    "CLASSP: PhraseBank, when it was learned": of_classp(
        lambda row: (
            f"{measures.learned(row, 'phrase_bank', 'train'):.1f},"
            f" {row['results'][0]['epochs']} epochs"
        )
    ),
    "CLASSP: 5,000 training reviews of IMDB, 13 epochs on": of_classp(
        accuracy_after(13)
    ),
}


def bits(table):
    """A row a measure, a column a dtype; but for the run that was stopped."""
    for name, *cells in table.rows:
        for dtype, pasted in zip(table.header[1:], cells, strict=True):
            ours = BITS[name](dtype)
            yield f"{name}, {dtype}", pasted, pasted if ours is None else ours


VISION_CLAIMS = {
    "CLASSP keeps": [("CLASSP, released, θ 0.5", 4)],
    "The threshold of 0.5": [("CLASSP, released, no θ", 1)],
    "CLASSP beats SGD": [
        ("SGD, the others", 4),
        ("SGD, α 0.005", 2),
        ("CLASSP, α 0.2", 2),
    ],
    "CLASSP beats its AdaGrad": [("AdaGrad instance, released, the others", 4)],
    "CLASSP beats EWC": [("EWC, as in the paper, the others", 4)],
    "p = 1 beats p = 2": [
        ("CLASSP, p = 2, α 0.005", 2),
        ("CLASSP, p = 2, α 0.02", 2),
        ("CLASSP, α 0.2", 2),
    ],
}
NO_THRESHOLD = "CLASSP, Algorithm 1, no θ"
TEXT_CLAIMS = {
    "All methods": [
        (NO_THRESHOLD, 1),
        ("AdaGrad instance, Algorithm 1", 1),
        ("Adam", 1),
        ("AdaGrad instance, released", 1),
        ("SGD", 1),
    ],
    "Adam keeps": [("Adam", 4)],
    "CLASSP without θ": [(NO_THRESHOLD, 4)],
    "CLASSP with θ 0.99": [("CLASSP, Algorithm 1, θ 0.99", 1)],
    "EWC keeps": [("EWC, as in the paper, the others", 4)],
    "SGD keeps": [("SGD", 4), (f"paper/text/named/table.md: {NO_THRESHOLD}", 2)],
    "CLASSP forgets": [
        (NO_THRESHOLD, 1),
        ("Adam", 1),
        ("EWC, as in the paper, the others", 1),
    ],
    "p = 1 beats p = 2": [
        ("AdaGrad instance, released", 2),
        (NO_THRESHOLD, 1),
        ("AdaGrad instance, released", 2),
        ("AdaGrad instance, Algorithm 1", 2),
        ("AdaGrad instance, Algorithm 1", 1),
        (NO_THRESHOLD, 1),
    ],
}


def claims(table):
    """A row a claim: its figures, in order, are neighbours in a row of the results."""
    of_text = "PhraseBank" in table.rows[0][0]
    of = TEXT_CLAIMS if of_text else VISION_CLAIMS
    default = RELEASED if of_text else FLOAT32
    for claim in table.rows:
        pasted = figures(" ".join(claim))
        sources = next((s for k, s in of.items() if claim[0].startswith(k)), [])
        yield claim[0], len(pasted), sum(count for _, count in sources)
        for source, count in sources:
            file, _, name = source.rpartition(": ")
            lines = [
                " | ".join(row)
                for found in of_results(file or f"{default}/table.md")
                for row in found.rows
                if row[0] == name
            ]
            said, pasted = " | ".join(pasted[:count]), pasted[count:]
            ours = said if any(said in line for line in lines) else lines
            yield f"{claim[0]}: {source}", said, ours


CHECKS = {
    "| CLASSP | best of the others without data": streams_and_papers,
    "| as the paper runs it": streams_and_papers,
    "÷ floor, median": floors,
    "| bytes a weight | MNIST": memory_and_accuracy,
    "| bytes a weight | Transformer": on_a_gpu,
    "| median | smallest": train_steps,
    "method | average accuracy | first task": demos,
    "| float32 | bfloat16": bits,
    "claim | here": claims,
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def check_of(table):
    header = " | ".join(table.header)
    return next((check for start, check in CHECKS.items() if start in header), None)


PASTED = [
    pytest.param(page, number, id=f"{page.stem}-{check_of(table).__name__}-{number}")
    for page in PAGES
    for number, table in enumerate(pages.tables(page.read_text()))
    if check_of(table)
]


def wrong(text, number):
    """What a page's table says otherwise than the results."""
    table = pages.tables(text)[number]
    return [of for of in check_of(table)(table) if of[1] != of[2]]


def test_every_pasted_table_of_means_and_deviations_is_checked():
    unchecked = [
        (page.name, table.header)
        for page in PAGES
        for table in pages.tables(page.read_text())
        if figures(f"{table.rows}") and not check_of(table)
    ]
    assert not unchecked
    assert len(PASTED) == len(CHECKS) + 1  # There are two tables of claims.


@pytest.mark.parametrize(("page", "number"), PASTED)
def test_pasted_rows_are_those_of_the_results(page, number):
    assert not wrong(page.read_text(), number)


@pytest.mark.parametrize(("page", "number"), PASTED)
def test_figures_of_two_rows_that_are_exchanged_are_found(page, number):
    text = page.read_text()
    lines = pages.lines_of_tables(text)[number]
    of_claims = check_of(pages.tables(text)[number]) is claims
    found = set()
    for one, other in itertools.combinations(lines, 2):
        (name, said), (other_name, other_said) = (
            line.split(" | ", 1) for line in (one, other)
        )
        # What a claim's prose says else isn't compared.
        compared = figures if of_claims else str
        if compared(said) != compared(other_said):
            changed = text.replace(one, f"{name} | {other_said}")
            changed = changed.replace(other, f"{other_name} | {said}")
            found.add(bool(wrong(changed, number)))
    assert found == {True}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_figures_are_in_a_table_that_their_section_links_to(page):
    assert not [*pages.figures_without_source(page, page.read_text())]


def test_a_figure_of_a_table_that_its_section_does_not_link_to_is_found():
    stream = "streams/split_fashion_mnist/domain-mlp/test/table.md"
    (figure,) = figures(row_of(stream, "EWC, λ 1000", "average accuracy")[0])
    page = ROOT / "docs" / "reproduction.md"
    text = f"{page.read_text()}\nIt keeps {figure}.\n"
    assert [of for _, of in pages.figures_without_source(page, text)] == [figure]


def test_regrets_in_prose_are_those_of_the_table():
    """Each figure is in the row of the method that it stands beside."""
    page = ROOT / "docs" / "benchmarks.md"
    (section,) = [
        of
        for of in pages.sections(page, page.read_text())
        if of.heading == "## A setting chosen on other data"
    ]
    prose = " ".join(section.text.split("\n- ", 1)[1].split())
    rows = {row[0]: row[1:] for row in of_results("streams/regret.md")[0].rows}
    names = {
        "online EWC": "EWC, online",
        "joint training": "Joint training",
        "CLASSP's directions": "CLASSP, directions",
    }
    longest_first = sorted([*names, *rows], key=len, reverse=True)
    said = re.split(f"({'|'.join(map(re.escape, longest_first))})", prose)
    checked = 0
    for name, text in zip(said[1::2], said[2::2], strict=True):
        for figure in re.findall(r"\d+\.\d+", text):
            assert figure in rows[names.get(name, name)], (name, figure)
            checked += 1
    assert checked == len(re.findall(r"\d+\.\d+", prose)) > 0
