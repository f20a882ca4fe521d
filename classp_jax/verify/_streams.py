"""Gradients that reach an optimizer's corners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SHAPES: dict[str, tuple[int, ...]] = {
    "ordinary": (6, 7),
    "edge": (4, 3, 5),
    "wide": (61,),
    "small": (8, 4),
    "scalar": (),
}


def random_params(seed: int, dtype: Any) -> dict[str, np.ndarray]:
    """Weights around 1, shaped as :data:`SHAPES`; those of "small" are 0."""
    rng = np.random.default_rng(seed)
    params = {
        k: np.asarray(1 + rng.normal(size=s) / 4, dtype) for k, s in SHAPES.items()
    }
    return {**params, "small": np.zeros(SHAPES["small"], dtype)}


def gradient_stream(
    seed: int, steps: int, thresholds: Sequence[float], dtype: Any
) -> dict[str, np.ndarray]:
    """Gradients for each of :data:`SHAPES`, stacked over steps.

    "edge" mixes exact zeros, denormals, the roots of the thresholds and their
    neighbours to the bit, and values on both sides of them; "wide" spans 1e-20 to
    1e+10; "small" is around 1e-9, where nothing larger hides it. The gradients of
    "scalar" share a sign: its root mean square is its own value, so a weight that
    crosses zero would have no scale to compare with.

    Args:
      seed: of the random numbers.
      steps: how many gradients.
      thresholds: those that the optimizer compares the squares with.
      dtype: float32 or float64.

    Returns:
      A dictionary of arrays, (steps, *shape).
    """
    rng = np.random.default_rng(seed)
    tiny = np.finfo(dtype).tiny
    edges = [0.0, np.finfo(dtype).smallest_subnormal, tiny / 3, tiny, 1e-3, 0.3, 1.0]
    for threshold in thresholds:
        root = np.sqrt(np.asarray(threshold, dtype))
        edges += [root, np.nextafter(root, dtype(0)), np.nextafter(root, dtype(1))]
        edges += [2 * root, root / 2]
    edge = np.array(edges, dtype)

    def signs(name: str) -> np.ndarray:
        return rng.choice([-1, 1], (steps, *SHAPES[name]))

    def normal(name: str) -> np.ndarray:
        return 0.5 * rng.normal(size=(steps, *SHAPES[name]))

    stream = {
        "ordinary": normal("ordinary"),
        "edge": rng.choice(edge, (steps, *SHAPES["edge"])) * signs("edge"),
        "wide": 10 ** rng.uniform(-20, 10, (steps, *SHAPES["wide"])) * signs("wide"),
        "small": 1e-9 * normal("small"),
        "scalar": -np.abs(normal("scalar")),
    }
    return {name: np.asarray(values, dtype) for name, values in stream.items()}
