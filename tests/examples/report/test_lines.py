"""Lines labelled at their ends, and colours that everyone sees."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from examples.methods import classp, plain
from examples.methods.registry import sweeps
from examples.report.lines import GREY, End, apart, band, label_ends, looks, save
from examples.runner.plan import OTHER

COLOURS = {sweep.family.title: sweep.family.colour for sweep in sweeps()}
COLOURS[OTHER.title] = OTHER.colour
# What those see who lack the cones for red or green: Machado et al. (2009).
SEEN = {
    "normally": np.eye(3),
    "without red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "without green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)


def linear(colour):
    """A colour's linear RGB."""
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(colour, seen):
    """A colour in CIELAB, as some see it."""
    x, y, z = TO_XYZ @ np.clip(seen @ linear(colour), 0, 1) / TO_XYZ.sum(1)
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("colour", [*COLOURS.values(), GREY])
def test_a_colour_stands_out_on_white(colour):
    assert 1.05 / (TO_XYZ[1] @ linear(colour) + 0.05) >= 3


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
def test_families_are_told_apart_whatever_cones_one_has(seen):
    labs = {title: lab(colour, np.array(seen)) for title, colour in COLOURS.items()}
    for (one, a), (other, b) in itertools.combinations(labs.items(), 2):
        assert np.linalg.norm(a - b) >= 10, (one, other)


def test_ours_are_in_colour_and_others_in_grey():
    first, second, ours = looks([plain.SGD, plain.ADAM, classp.FAMILY])
    assert first["color"] == second["color"] == GREY
    assert first["ls"] != second["ls"]
    assert ours["color"] == classp.FAMILY.colour
    assert ours["lw"] > first["lw"]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0, 20, 40], [0, 20, 40]),
        ([5, 5], [0, 10]),
        ([40, 4, 6], [40, 0, 10]),
        ([0, 12, 12], [-2, 8, 18]),
    ],
)
def test_labels_move_until_none_overlap(places, expected):
    heights = np.full(len(places), 10.0)
    np.testing.assert_allclose(apart(np.array(places, float), heights), expected)


def test_a_figure_is_saved_twice_and_its_bytes_are_the_same_each_time(tmp_path):
    for name in ("one", "other"):
        figure = Figure(layout="constrained")
        ax = figure.subplots()
        steps, mean = np.arange(3), np.array([1.0, 2, 3])
        ax.plot(steps, mean)
        band(ax, steps, mean, mean / 10, GREY)
        label_ends(ax, [End(2, 3, "up", GREY), End(2, 3.01, "as far", GREY)])
        up, other = (note.xyann[1] for note in ax.texts)
        assert other - up > 9
        save(figure, tmp_path / f"{name}.png")
    for suffix in ("png", "svg"):
        one, other = (tmp_path / f"{name}.{suffix}" for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()
