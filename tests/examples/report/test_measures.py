"""What a row says."""

import math

import numpy as np
import pytest

from examples.report import measures
from tests.examples.report.made import row


def test_quantities_of_a_row():
    # EWC as in the paper: MNIST in two phases of 10 and 20 steps, then Fashion-MNIST.
    paper = row("ewc_paper", final=(0.6, 0.8), after_mnist=0.9)
    assert measures.learned(paper, "mnist") == pytest.approx(90)
    assert measures.forgetting(paper, "mnist") == pytest.approx(30)
    assert measures.updated(paper, "mnist") == pytest.approx((10 * 20 + 20 * 40) / 30)
    assert measures.updated(paper, "fashion_mnist") == pytest.approx(60)
    assert measures.boundary(paper, "mnist") == 30
    assert measures.accuracy(
        paper, "mnist", "train", with_dropout=True
    ) == pytest.approx(51)
    assert math.isnan(measures.accuracy(paper, "fashion_mnist", phase=0))
    steps, accuracies = measures.curve(paper, "fashion_mnist")
    np.testing.assert_array_equal(steps, [0, 10, 10, 30, 30, 60])
    np.testing.assert_allclose(accuracies, [10, 10, 10, 10, 10, 80])
