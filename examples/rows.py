"""Result rows: one JSON line a run, appended as it ends."""

import importlib.metadata
import json
import os
import pathlib
import platform
from typing import Any

import jax

from examples.methods import Method, as_json

_FIELDS = {"method", "seed", "settings", "phases", "results"}


def append(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Writes a row behind those already there.

    Args:
      path: the JSONL file; made, with its folder, if it isn't there.
      row: anything that JSON can hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """All rows of a file, none if it isn't there.

    Args:
      path: the JSONL file.

    Returns:
      The rows, in their order.

    Raises:
      ValueError: a line isn't JSON or no row of results; the message names it.
    """
    rows = []
    for number, line in enumerate(path.open() if path.exists() else [], start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is no JSON ({error}); a run cut short leaves"
                " half a line: delete it"
            ) from error
        if not isinstance(row, dict) or not set(row) >= _FIELDS:
            raise ValueError(f"{path}, line {number} is no row of results")
        rows.append(row)
    return rows


def select(
    all_rows: list[dict[str, Any]], method: Method, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """The rows of a method: of equal phases and settings, measured on all its splits.

    Args:
      all_rows: rows of any methods.
      method: the method.
      settings: of the experiment.

    Returns:
      Its rows, a seed each; of several with one seed the last.
    """
    phases, by_seed = as_json(method.phases), {}
    for row in all_rows:
        measured = set().union(*row["results"][-1]["accuracy"].values())
        if (
            row["phases"] == phases
            and row["settings"] == settings
            and set(method.splits) <= measured
        ):
            by_seed[row["seed"]] = row
    return [by_seed[seed] for seed in sorted(by_seed)]


def provenance(mesh: jax.sharding.Mesh | None = None) -> dict[str, Any]:
    """The devices and the versions that a phase is trained with."""
    names = ("classp_jax", "jax", "optax", "flax")
    return {
        "device": device(mesh),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def device(mesh: jax.sharding.Mesh | None = None) -> str:
    """The devices of a mesh, or the one that JAX computes on, in words."""
    first, count = jax.devices()[0], mesh.size if mesh else 1
    if first.platform == "cpu":
        kind = f"{os.cpu_count()} {platform.machine()} cores"
        return kind if count == 1 else f"{kind} as {count} devices"
    return first.device_kind if count == 1 else f"{count} {first.device_kind}"
