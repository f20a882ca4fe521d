"""Cells of tables."""

import math

import pytest

from examples.report.table import cell


@pytest.mark.parametrize(
    ("values", "digits", "text"),
    [
        ([85.04], 1, "85.0"),
        ([80, 90], 1, "85.0 ± 7.1"),
        ([7, 7, 7], 0, "7"),
        ([-0.01], 1, "0.0"),
        ([-0.06, 0.02], 1, "0.0 ± 0.1"),
        ([80, math.nan], 1, "\N{EN DASH}"),
    ],
)
def test_cell_is_mean_and_sample_deviation(values, digits, text):
    assert cell(values, digits) == text
