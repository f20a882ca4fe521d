"""What the command shows of a comparison: a table, a JSON file, a figure."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from classp_jax.verify._compare import Comparison
from classp_jax.verify._distance import Distance
from classp_jax.verify._streams import KINDS
from classp_jax.verify._torch_optimizer import InputError


def table(comparison: Comparison) -> str:
    """A row for each tensor's weight and accumulator, aligned for a terminal."""
    columns = ["max abs", "max rel", "allowed", "max ULP", "first over"]
    header = ["tensor", "shape", "", *columns]
    rows = [header]
    for name, weight in comparison.weights.items():
        rows.append([name, str(weight.shape), "weight", *_cells(weight)])
        if comparison.accumulators:
            rows.append(["", "", "grad_sum", *_cells(comparison.accumulators[name])])
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "─" * max(map(len, lines)))
    return "\n".join(lines)


def _cells(distance: Distance) -> list[str]:
    first = "never" if distance.first_over is None else f"step {distance.first_over}"
    return [
        f"{distance.absolute:.1e}",
        f"{distance.relative:.1e}",
        f"{distance.tolerance:.0e}",
        f"{distance.ulp:.3g}",
        first,
    ]


def spans(is_open: Sequence[bool]) -> str:
    """The steps, counted from 1, at which the first group's decay is open."""
    steps = [step for step, gate in enumerate(is_open, 1) if gate]
    if len(steps) in (0, len(is_open)):
        return "open throughout" if steps else "never open"
    starts = [step for step in steps if step - 1 not in steps]
    ends = [step for step in steps if step + 1 not in steps]
    pairs = zip(starts, ends, strict=True)
    spans = ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in pairs)
    return f"open at steps {spans}"


def notes(comparison: Comparison, keys: Sequence[str]) -> list[str]:
    """What there is to say of the accumulators, a sentence each."""
    if comparison.begins_at_eps:
        return ["Its accumulator begins at eps: it is compared with eps + grad_sum."]
    if comparison.accumulators:
        return []
    return [
        f"The PyTorch optimizer has no {' or '.join(map(repr, keys))} in its state:"
        " the weights alone are compared (--torch-accumulator KEY)."
    ]


def bounds(comparison: Comparison) -> str:
    """The tolerances, in words."""
    distances = [*comparison.weights.values(), *comparison.accumulators.values()]
    allowed = sorted({distance.tolerance for distance in distances} - {0.0})
    return " or ".join(f"{tolerance:g}" for tolerance in allowed)


def over(comparison: Comparison) -> list[str]:
    """What was over the tolerance first, and where alone; empty if nothing was."""
    over = [
        (distance.first_over, f"{kind} of {name} is over {distance.tolerance:g}")
        for kind, distances in (
            ("the weight", comparison.weights),
            ("the accumulator", comparison.accumulators),
        )
        for name, distance in distances.items()
        if distance.first_over is not None
    ]
    if not over:
        return []
    step, what = min(over)
    line = f"{what} from step {step} on"
    kinds = {name.rpartition(".")[2] for name in comparison.over_tolerance}
    if len(kinds) == 1 and kinds <= {*KINDS}:
        line += f"; what differs is {KINDS[kinds.pop()]} only"
    return [line]


def save_json(
    comparison: Comparison, passed: bool, settings: dict[str, Any], path: pathlib.Path
) -> None:
    """Writes settings, verdict and every distance, with its ULP at each step."""
    tensors = {
        name: {
            kind: dataclasses.asdict(distances[name])
            for kind, distances in (
                ("weight", comparison.weights),
                ("grad_sum", comparison.accumulators),
            )
            if name in distances
        }
        for name in comparison.weights
    }
    record = {"settings": settings, "passed": passed, "tensors": tensors}
    path.write_text(json.dumps(_finite(record), indent=1, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """``value`` with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_plot(path: pathlib.Path) -> None:
    """Raises an :class:`InputError` if a figure can't be saved under this name."""
    try:
        figure = importlib.import_module("matplotlib.figure").Figure()
    except ModuleNotFoundError as error:
        raise InputError(
            f"--plot needs {error.name}: pip install matplotlib"
        ) from error
    known = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix[1:] not in known:
        raise InputError(
            f"--plot: {path.name!r} must end in one of .{', .'.join(known)}"
        )


def save_plot(comparison: Comparison, title: str, path: pathlib.Path) -> None:
    """Draws the ULP difference of each tensor over the steps."""
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(9, 3.6), layout="constrained"
    )
    kinds = [("weights", comparison.weights)]
    if comparison.accumulators:
        kinds.append(("accumulators", comparison.accumulators))
    axes = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (kind, distances) in zip(axes, kinds, strict=True):
        for name, distance in distances.items():
            steps = range(1, len(distance.ulp_by_step) + 1)
            ax.plot(steps, distance.ulp_by_step, label=name, lw=1)
        ax.set(title=kind, xlabel="step")
        ax.grid(alpha=0.3)
    axes[0].set_yscale("symlog", linthresh=1)
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("largest difference, ULP")
    axes[-1].legend(fontsize="x-small", ncols=2)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
