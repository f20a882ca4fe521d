"""What a page of Markdown says: its sections, their links and their tables."""

import functools
import itertools
import pathlib
import re
from typing import NamedTuple

from examples.report import index

ROOT = index.ROOT
FIGURE = re.compile(r"(?<![\d.])\d+\.\d+ ± \d+\.\d+")


class Table(NamedTuple):
    caption: str  # The line before it.
    header: list[str]
    rows: list[list[str]]

    def column(self, title):
        return {row[0]: row[self.header.index(title)] for row in self.rows}


class Section(NamedTuple):
    heading: str
    text: str
    linked: set[pathlib.Path]  # By it and by those that it is a part of.


def tables(text):
    found = []
    for number, header, lines in _tables(text):
        before = [line for line in text.splitlines()[:number] if line]
        cells = [_cells(line) for line in lines]
        found.append(Table(before[-1] if before else "", _cells(header), cells))
    return found


def lines_of_tables(text):
    """The lines of each table, below its header."""
    return [lines for _, _, lines in _tables(text)]


def _tables(text):
    """Where each begins, its header and its lines."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.fullmatch(r"\|( ?:?-+:? ?\|)+", line):
            of_table = itertools.takewhile(_is_row, lines[number + 1 :])
            yield number - 1, lines[number - 1], list(of_table)


def _is_row(line):
    return line.startswith("|")


def _cells(line):
    return [cell.strip(" *") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@functools.cache
def of_results(file):
    """The tables of a file of results."""
    return tables((ROOT / "results" / file).read_text())


def sections(page, text):
    """Those of a page, or of a copy of it that says something else."""
    found, above = [], []
    # Without code, in which # begins a comment; what is included is no code.
    block = re.compile(r"^```(\{include\})?.*?^```$", re.MULTILINE | re.DOTALL)
    text = block.sub(lambda of: of[0] if of[1] else "", text)
    for part in re.split(r"^(?=#+ )", text, flags=re.MULTILINE):
        level = len(re.match(r"#*", part)[0])
        linked = set(index.links(page.parent, part))
        above = [of for of in above if 1 < of[0] < level]
        above.append((level, linked))
        of_all = set.union(*(linked for _, linked in above))
        found.append(Section(part.partition("\n")[0], part, of_all))
    return found


def figures(text):
    """Its means and deviations, across the ends of lines too."""
    return FIGURE.findall(" ".join(text.split()))


def figures_without_source(page, text):
    """Each section's figures that no table has which it links to or includes."""
    for section in sections(page, text):
        known = set()
        for file in section.linked:
            if file.is_relative_to(ROOT / "results") and file.suffix == ".md":
                known |= {f for t in tables(file.read_text()) for f in figures(f"{t}")}
        for figure in figures(section.text):
            if figure not in known:
                yield section.heading, figure
