"""What data sets of images share."""

import numpy as np
import pytest
from PIL import Image

from examples.datasets.images import as_png, centred, first_of_each_class


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_a_png_keeps_every_pixel(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with Image.open(as_png(pixels)) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_the_first_of_each_class_are_one_in_so_many_rounded_down():
    labels = np.array([3, 0, 3, 0, 3, 3, 0, 7, 3, 0, 3])
    chosen = first_of_each_class(labels, 3)
    # Of six, four and one.
    np.testing.assert_array_equal(np.flatnonzero(chosen), [0, 1, 2])
    assert not first_of_each_class(labels, 7).any()


def test_pixels_are_centred():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    result = centred(images)
    assert (result.shape, result.dtype) == (images.shape, np.float32)
    np.testing.assert_allclose(result, images.astype(float) / 127.5 - 1, atol=1e-6)
    assert (result.min(), result.max()) == (-1, 1)
