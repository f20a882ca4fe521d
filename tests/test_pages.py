"""Each row that a page pastes says what the row of the results says that it names."""

import functools
import itertools
import re

import pytest

from examples.report import measures
from examples.report.page import read
from examples.runner import rows
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


BEST_OF_OTHERS = "best other memory-free method"
OF_STREAMS = {
    ("`classp`", ""): ["CLASSP"],
    ("`classp`", "decay from the first step"): ["CLASSP, decay always on"],
    ("`classp`", "first task with SGD at 0.05"): ["SGD at 0.05, then CLASSP"],
    # The better of the learning rates.
    ("`classp_gram`", ""): ["CLASSP, 64 directions", "CLASSP, 64 directions, α 0.2"],
    ("`classp_gram`", "full sums"): ["CLASSP, directions, α 0.2"],
    ("`classp_gram`", "tasks announced"): [
        "CLASSP, 64 directions, tasks announced, α 0.2"
    ],
    ("replay of 1,000 images", ""): ["Replay"],
    ("as the paper runs it, ε 10⁻⁵", ""): ["CLASSP"],
    ("ε 1", ""): ["CLASSP, ε 1"],
    ("ε 10⁻⁵, decay from the first step", ""): ["CLASSP, decay always on"],
    ("ε 10⁻⁵, first task with SGD at 0.05", ""): ["SGD at 0.05, then CLASSP"],
    ("factored sums", ""): ["CLASSP, factored sum"],
    ("replay of 12 images", ""): ["Replay, 12 images"],
    ("no threshold", ""): ["CLASSP"],
    ("threshold, the sum collects what passes", ""): ["CLASSP, g² > 10·mean(g²)"],
    ("threshold, the sum collects all", ""): [
        "CLASSP, g² > 10·mean(g²), all collected"
    ],
    ("boundary announced", ""): ["CLASSP"],
    ("gate opens itself", ""): ["CLASSP, gate opens itself"],
    ("SGD", ""): ["SGD"],
}
OF_PAPER = {
    (FLOAT32, "`classp`", ""): "CLASSP, α 0.2",
    (FLOAT32, "`classp_gram`", ""): "CLASSP, 64 directions, κ 1",
    (FLOAT32, "`classp_gram`", "damping κ = 0.1"): "CLASSP, 64 directions, κ 0.1",
    (FLOAT32, BEST_OF_OTHERS, ""): "EWC, λ 10000",
    (FLOAT32, "replay of 1,000 images", ""): "Replay, share 0.01",
    (FLOAT32, "`classp`", "relative threshold"): (
        "CLASSP, g² > θ·mean(g²) on Fashion-MNIST, θ 10"
    ),
    (RELEASED, "`classp`", ""): "CLASSP, Algorithm 1, no θ",
    (RELEASED, BEST_OF_OTHERS, ""): "AdaGrad instance, Algorithm 1",
    (RELEASED, "`classp`", "relative threshold"): (
        "CLASSP, g² > θ·mean(g²) on IMDB, θ 10 (best of 2)"
    ),
}
JUDGED_ON = {
    FLOAT32: ("MNIST", "Fashion-MNIST"),
    RELEASED: ("PhraseBank, training set", "IMDB, test set"),
}


def mean(figure):
    return float(figure.split()[0])


def best_of_the_others(file):
    """What may stand for the best of those that neither CLASSP nor data are part of."""
    others = {
        name: of
        for name, of in averages(file).items()
        if not re.search("CLASSP|Replay|Joint", name)
    }
    most = max(map(mean, others.values()))
    return {
        f"{'online EWC' if 'online' in name else name.split(',')[0]} {of}"
        for name, of in others.items()
        if mean(of) == most
    }


def linked(cell):
    """The file of results to which a cell leads, if to any."""
    found = re.search(r"\]\((?:\.\./)*results/([^)]+)\)", cell)
    return found and found[1]


def of_paper(folder, column, variant):
    if not (name := OF_PAPER.get((folder, column, variant))):
        return None
    ours = " / ".join(row_of(f"{folder}/table.md", name, *JUDGED_ON[folder]))
    return f"{name.split()[0].strip(',')} {ours}" if column == BEST_OF_OTHERS else ours


def of_stream(file, column, variant):
    of = averages(file)
    found = [of[name] for name in OF_STREAMS.get((column, variant), []) if name in of]
    return max(found, key=mean, default=None)


def streams_and_papers(table):
    """A row a stream, which its link names, or the same with another CLASSP."""
    file = None
    for title, *cells in table.rows:
        same = title.startswith("the same, ")
        file = file if same else linked(title)
        variant = title.removeprefix("the same, ") * same
        for column, cell in zip(table.header[1:], cells, strict=True):
            if not figures(cell):
                continue
            pasted = cell.partition(" (")[0]  # Without a remark.
            if file.startswith("paper"):
                ours = of_paper(file.removesuffix("/table.md"), column, variant)
            elif column == BEST_OF_OTHERS:
                of_best = best_of_the_others(file)
                ours = pasted if pasted in of_best else min(of_best)
            else:
                ours = of_stream(file, column, variant)
            yield f"{title}, {column}", pasted, ours


def differences(table):
    """The same of two columns, and what lies between them."""
    yield from streams_and_papers(table)
    for title, one, other, difference in table.rows:
        yield f"{title}, difference", difference, f"{mean(one) - mean(other):+.1f}"


def ranks(table):
    """A row a number of directions, of one seed in validation."""
    file = "streams/permuted_mnist/domain-mlp/validation/table.md"
    for directions, *pasted in table.rows:
        name = f"CLASSP, {directions} directions, κ 5".replace("all ", "")
        ours = row_of(file, name, "average accuracy", "bytes a weight")
        yield directions, pasted, [*ours]


def losses(table):
    """A row a method: with the loss over all classes, and over present ones."""
    data = {"digits": "split_mnist", "clothes": "split_fashion_mnist"}
    folders = {"before": "class-mlp", "present": "class-mlp-present"}
    for name, *cells in table.rows:
        for column, pasted in zip(table.header[1:], cells, strict=True):
            of, loss = column.split(", ")
            ours = averages(f"streams/{data[of]}/{folders[loss]}/test/table.md")
            yield f"{name}, {column}", pasted, ours.get(name, "")


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
    "CLASSP: 5,000 training reviews of IMDB, after 13 epochs": of_classp(
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


def costs(table):
    """A row an experiment: how long its phases trained, shared ones counted once."""
    for name, *pasted in table.rows:
        folder = ROOT / "results/paper" / {"images": "vision"}.get(name, name)
        phases = {
            (phase["device"], phase["seconds"])
            for file in folder.rglob("rows.jsonl")
            for row in rows.read(file)
            for phase in row["results"]
        }
        of_cores, of_gpu = (
            sum(seconds for device, seconds in phases if of in device) / 3600
            for of in ("2 x86_64 cores", "H100")
        )
        total = sum(seconds for _, seconds in phases) / 3600
        assert of_cores + of_gpu == pytest.approx(total)  # No other device.
        yield name, pasted, [f"{2 * of_cores:.0f}", f"{of_gpu:.1f}"]


CHECKS = {
    "stream | `classp` | `classp_gram`": streams_and_papers,
    "| as the paper runs it": streams_and_papers,
    "| no threshold": streams_and_papers,
    "| boundary announced": streams_and_papers,
    "| factored sums | replay of 12": differences,
    "directions | average accuracy": ranks,
    "| digits, before": losses,
    "÷ floor, median": floors,
    "| bytes per weight | MNIST": memory_and_accuracy,
    "| bytes per weight | Transformer": on_a_gpu,
    "| float32 | bfloat16": bits,
    "claim in the paper | here": claims,
    "cost of | core hours": costs,
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
    headers = [
        " | ".join(table.header)
        for page in PAGES
        for table in pages.tables(page.read_text())
    ]
    assert all(any(start in header for header in headers) for start in CHECKS)


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
    page = ROOT / "docs" / "results" / "images.md"
    text = f"{page.read_text()}\nIt keeps {figure}.\n"
    assert [of for _, of in pages.figures_without_source(page, text)] == [figure]


def test_regrets_in_prose_are_those_of_the_table():
    """Each figure is in the row of the method that it stands beside."""
    page = ROOT / "docs" / "results" / "settings.md"
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
