"""Gradients that reach an optimizer's corners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

SHAPES: dict[str, tuple[int, ...]] = {
    "ordinary": (6, 7),
    "edge": (4, 3, 5),
    "wide": (61,),
    "small": (8, 4),
    "scalar": (),
}
_MORE_SHAPES: dict[str, tuple[int, ...]] = {
    "bias": (9,),
    "window": (2, 3, 2, 2),
    "tiny": (12,),
    "huge": (5, 3),
    "idle": (30,),
    "nonfinite": (5, 8),
    "sometimes": (3, 4),
    "square": (5, 5),
}
# What is particular to a tensor, where a difference in it alone tells something.
KINDS = {
    "bias": "the tensor of one axis",
    "huge": "where gradients are huge",
    "idle": "where the gradient is 0 throughout",
    "nonfinite": "where gradients are NaN or infinite at times",
    "scalar": "the tensor without axes",
    "small": "where gradients are around 1e-9",
    "sometimes": "where p.grad is None at times",
    "square": "the tensor of as many rows as columns",
    "tiny": "where gradients are around 1e-17",
    "window": "the tensor of four axes",
}
# The tensors of the verification's parameter groups; of the first without a prefix.
_GROUPS = (
    sorted([*SHAPES, *_MORE_SHAPES]),
    ["edge", "tiny"],
    ["ordinary", "tiny"],
)
# What is huge beside other directions.
_LARGE = 3.0


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
    crosses zero would have no scale to compare with. In float16 "wide" spans 1e-7 to
    1e+4, and "small" is around 1e-3.

    Args:
      seed: of the random numbers.
      steps: how many gradients.
      thresholds: those that the optimizer compares the squares with.
      dtype: a floating dtype.

    Returns:
      A dictionary of arrays, (steps, *shape).
    """
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype).type
    limits: Any = jnp.finfo(dtype)
    tiny = float(limits.tiny)
    is_short = float(limits.max) < 1e5
    decades, small = ((-7, 4), 1e-3) if is_short else ((-20, 10), 1e-9)
    edges = [0.0, float(limits.smallest_subnormal), tiny / 3, tiny, 1e-3, 0.3, 1.0]
    for threshold in thresholds:
        root = np.sqrt(np.asarray(threshold, dtype))
        edges += [root, np.nextafter(root, dtype(0)), np.nextafter(root, dtype(1))]
        edges += [2 * root, root / 2]
    edge = np.array(edges, np.float64)

    def signs(name: str) -> np.ndarray:
        return rng.choice([-1, 1], (steps, *SHAPES[name]))

    def normal(name: str) -> np.ndarray:
        return 0.5 * rng.normal(size=(steps, *SHAPES[name]))

    stream = {
        "ordinary": normal("ordinary"),
        "edge": rng.choice(edge, (steps, *SHAPES["edge"])) * signs("edge"),
        "wide": 10 ** rng.uniform(*decades, (steps, *SHAPES["wide"])) * signs("wide"),
        "small": small * normal("small"),
        "scalar": -np.abs(normal("scalar")),
    }
    return {name: np.asarray(values, dtype) for name, values in stream.items()}


def group_params(seed: int, dtype: Any) -> list[dict[str, np.ndarray]]:
    """Weights for each parameter group of the verification, by tensor.

    They are around 1, but those of "small" and "tiny" 0.
    """
    groups = []
    for number, names in enumerate(_GROUPS):
        rng = np.random.default_rng([seed, number])
        shapes = {name: (SHAPES | _MORE_SHAPES)[name] for name in names}
        groups.append(
            {
                _in_group(number, name): np.asarray(
                    (1 + rng.normal(size=shape) / 4) * (name not in ("small", "tiny")),
                    dtype,
                )
                for name, shape in shapes.items()
            }
        )
    return groups


def group_streams(
    seed: int,
    steps: int,
    thresholds: Sequence[float],
    sizes: Sequence[tuple[float, float]],
    dtype: Any,
    *,
    finite: bool,
) -> dict[str, list[np.ndarray | None]]:
    """Gradients for the tensors of :func:`group_params`, a list over steps each.

    Besides those of :func:`gradient_stream`, "bias", "square" and "window" are as
    "ordinary"; "tiny" and "huge" are of the sizes that are given; "idle" is 0 at every
    step; of "nonfinite" some elements are at some steps NaN or infinite; "sometimes"
    has none, at the first steps and at some others.

    Args:
      seed: of the random numbers.
      steps: how many gradients.
      thresholds: those that the optimizer compares the squares with.
      sizes: of each group, those of its tiny and its huge gradients.
      dtype: a floating dtype.
      finite: whether "nonfinite", too, is to be finite.

    Returns:
      By tensor, an array or None for each step.
    """
    streams: dict[str, list[np.ndarray | None]] = {}
    for number, (names, (small, large)) in enumerate(zip(_GROUPS, sizes, strict=True)):
        rng = np.random.default_rng([seed, number])
        arrays = gradient_stream(seed + number, steps, thresholds, dtype)
        scales = {"tiny": small, "huge": large, "idle": 0.0}
        for name, shape in _MORE_SHAPES.items():
            values = 0.5 * rng.normal(size=(steps, *shape))
            if name == "tiny":  # All far above where their squares lose digits.
                values = np.sign(values) * 10 ** -rng.random(values.shape)
            arrays[name] = np.asarray(values * scales.get(name, 1.0), dtype)
        if not finite:
            _spoil(arrays["nonfinite"], rng)
        for name in names:
            streams[_in_group(number, name)] = list(arrays[name])
    is_absent = np.random.default_rng(seed).random(steps) < 0.4
    is_absent[: min(3, steps // 2)] = True
    for step in np.flatnonzero(is_absent):
        streams["sometimes"][step] = None
    return streams


def sizes(power: float | None, dtype: Any) -> tuple[float, float]:
    """Those of tiny and of huge gradients, whose sums over many steps are finite still.

    Without a power sums are of directions: what is small in one has digits beside what
    is large in another.
    """
    is_short = float(jnp.finfo(dtype).max) < 1e5
    far = float(10 ** (3 if is_short else 34 / max(power or 2.0, 2.0)))
    return 1 / far, far if power else _LARGE


def _spoil(gradients: np.ndarray, rng: np.random.Generator) -> None:
    """Puts NaN and infinities into some elements.

    Always into the same ones: some readings let them reach the weight, which has no
    number from then on.
    """
    steps, *shape = gradients.shape
    chosen = rng.random(shape) < 0.4
    at = (rng.random(gradients.shape) < 0.3) & chosen
    at[: steps // 10 + 1] = False
    bad = rng.choice([np.nan, np.inf, -np.inf], gradients.shape)
    gradients[at] = bad[at].astype(gradients.dtype)


def _in_group(number: int, name: str) -> str:
    return name if number == 0 else f"group{number + 1}.{name}"
