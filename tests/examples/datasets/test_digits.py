"""The demo's digits, and the same with their pixels permuted."""

import numpy as np

from examples.datasets.digits import digits_then_permuted_digits


def test_tasks_are_the_same_digits_with_their_pixels_permuted():
    a, b = digits_then_permuted_digits(seed=0).values()
    assert a.train.inputs.shape == b.train.inputs.shape == (4000, 28, 28, 1)
    assert a.test.inputs.shape == (1000, 28, 28, 1)
    for labels, count in ((a.train.labels, 400), (a.test.labels, 100)):
        np.testing.assert_array_equal(np.bincount(labels), [count] * 10)
    np.testing.assert_array_equal(a.train.labels, b.train.labels)
    flat_a, flat_b = (t.train.inputs.reshape(4000, 784) for t in (a, b))
    assert np.any(flat_a != flat_b)
    # One permutation for all images: the pixels' columns are the same, reordered.
    columns_a, columns_b = (sorted(c.tobytes() for c in f.T) for f in (flat_a, flat_b))
    assert columns_a == columns_b


def test_split_holds_the_test_images_out():
    a, _ = digits_then_permuted_digits(seed=0).values()
    train, test = ({i.tobytes() for i in split.inputs} for split in a)
    assert not train & test
    other, _ = digits_then_permuted_digits(seed=1).values()
    assert np.any(a.test.inputs != other.test.inputs)
