"""The networks that streams of images can be learned with, found by their files."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from flax import nnx

from examples.runner.discovery import values


class Model(NamedTuple):
    """A network that classifies images.

    Attributes:
      make: makes it, from its random streams, ``classes``, the number of outputs, and
        ``shape``, that of an image.
      what: it is, in words.
      title: what a page's title adds, if it isn't the default; ``{inputs}`` and
        ``{outputs}`` stand for their numbers.
    """

    make: Callable[..., nnx.Module]
    what: str
    title: str = ""


@functools.cache
def models() -> dict[str, Model]:
    """All of them by the names of their files."""
    found: dict[str, Model] = values("examples.models", "MODEL")
    return found
