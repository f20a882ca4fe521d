import jax
import numpy as np
import pytest

from examples.models.initializers import uniform


@pytest.mark.parametrize("shape", [(), (3, 5), (300, 200)])
def test_the_numbers_are_those_of_a_draw_of_the_shape(shape):
    key, init = jax.random.key(1), uniform(fan_in=4)["kernel_init"]
    expected = jax.random.uniform(key, shape, minval=-0.5, maxval=0.5)
    np.testing.assert_array_equal(init(key, shape), expected, strict=True)
