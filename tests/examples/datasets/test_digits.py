"""The demo's digits."""

import numpy as np

from examples.datasets import digits
from examples.datasets.stream import Stream


def test_each_digit_is_as_often_in_both_splits_and_no_image_twice():
    train, test = digits.load()
    assert train.inputs.shape == (4000, 28, 28, 1)
    assert test.inputs.shape == (1000, 28, 28, 1)
    assert train.inputs.dtype == np.uint8
    for labels, count in ((train.labels, 400), (test.labels, 100)):
        np.testing.assert_array_equal(np.bincount(labels), [count] * 10)
    images = [{image.tobytes() for image in split.inputs} for split in (train, test)]
    assert not images[0] & images[1]
    # What a stream holds out of them, the last tenth, has every digit.
    assert np.bincount(train.labels[-400:]).min() > 20


def test_each_task_permutes_the_pixels_in_its_own_way():
    a, b = Stream("permuted_digits", "domain", 2).load().values()
    np.testing.assert_array_equal(a.train.labels, b.train.labels)
    flat_a, flat_b = (task.train.inputs.reshape(4000, 784) for task in (a, b))
    assert np.any(flat_a != flat_b)
    # One permutation for all images: the pixels' columns are the same, reordered.
    columns_a, columns_b = (sorted(c.tobytes() for c in f.T) for f in (flat_a, flat_b))
    assert columns_a == columns_b
