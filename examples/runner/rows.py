"""Result rows: one JSON line a run, appended as it ends."""

import collections
import errno
import importlib.metadata
import json
import os
import pathlib
import platform
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import jax

from examples.runner.evaluation import MEASURES
from examples.runner.plan import Method, as_json

_FIELDS = {
    "method": str,
    "seed": int,
    "settings": dict,
    "phases": list,
    "results": list,
}
_RESULT = {
    "curve": dict,
    "update_density": (int, float),
    "bytes_per_weight": (int, float),
    "finite": bool,
    "device": str,
    "versions": dict,
}


def append(path: pathlib.Path, *new: dict[str, Any]) -> None:
    """Writes rows behind those already there, all at once or not at all.

    A row that is there already, as another process came first, isn't written again.
    What a run cut short left of a line at the file's end is removed.

    Args:
      path: the JSONL file; made, with its folder, if it isn't there.
      *new: anything that JSON can hold.

    Raises:
      ValueError: a line there isn't JSON or no row of results; the message names it.
      OSError: the file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        _lock(file)
        file.seek(0)
        content = file.read()
        rows, whole = _parse(path, content)
        lines = [
            json.dumps(row) + "\n"
            for row in json.loads(json.dumps(new))
            if not _is_among(row, rows)
        ]
        if whole and content[whole - 1 : whole] != b"\n":
            lines.insert(0, "\n")
        text = "".join(lines).encode()
        file.truncate(whole)
        try:
            written = file.write(text)
            if written < len(text):  # Which a full disk makes, and no error.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(whole)
            raise OSError(error.errno, error.strerror, str(path)) from error


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """All rows of a file, none if it isn't there.

    What a run cut short left of a line at the file's end is left out, with a warning.

    Args:
      path: the JSONL file.

    Returns:
      The rows, in their order; with whatever more a newer version wrote into them.

    Raises:
      ValueError: a line isn't JSON or no row of results; the message names it.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        _lock(file)
        return _parse(path, file.read())[0]


def _lock(file: BinaryIO) -> None:
    """Waits for other processes, and keeps them waiting until the file is closed."""
    import fcntl  # Not on Windows, where TFDS's array_record isn't either.

    fcntl.flock(file, fcntl.LOCK_EX)


def _parse(path: pathlib.Path, content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The rows, and how many bytes they are."""
    rows: list[dict[str, Any]] = []
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (RecursionError, ValueError) as error:
            where = f"{path}, line {number}"
            if number == len(lines) and not line.endswith(b"\n"):
                warnings.warn(
                    f"{where} is cut short, as by a run that was killed; it is left"
                    " out, and removed when the next row is written",
                    stacklevel=3,
                )
                return rows, len(content) - len(line)
            raise ValueError(f"{where} is no JSON ({error})") from error
        if not _is_row(row):
            raise ValueError(f"{path}, line {number} is no row of results")
        rows.append(row)
    return rows, len(content)


def _is_row(row: Any) -> bool:
    return bool(
        _has(row, _FIELDS)
        and isinstance(row["settings"].get("experiment"), str)
        and all(_has(phase, {"epochs": dict}) for phase in row["phases"])
        and row["results"]
        and all(
            _has(result, _RESULT)
            and any(_has(result, {measure: dict}) for measure in MEASURES)
            and all(isinstance(task, dict) for task in measured(result).values())
            and _has(result["curve"], {"step": list})
            and measured(result["curve"]) is not None
            and result["curve"]["step"]
            for result in row["results"]
        )
    )


def _has(node: Any, fields: dict[str, Any]) -> bool:
    return isinstance(node, dict) and all(
        isinstance(node.get(name), of) for name, of in fields.items()
    )


def _is_among(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    return any(
        all(row[key] == other[key] for key in ("seed", "settings", "phases"))
        and _measured(row) <= _measured(other)
        for other in rows
    )


def measured(result: dict[str, Any]) -> Any:
    """What a phase's result says of each task, or its curve, whatever the measure."""
    return next((result[name] for name in MEASURES if name in result), None)


def _measured(row: dict[str, Any]) -> set[str]:
    """The splits that were measured."""
    return set().union(*measured(row["results"][-1]).values())


def select(
    all_rows: list[dict[str, Any]], method: Method, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """The rows of one method, as :func:`select_each` finds those of several."""
    return select_each(all_rows, {"": method}, settings)[""]


def select_each(
    all_rows: Iterable[dict[str, Any]],
    methods: Mapping[str, Method],
    settings: dict[str, Any],
) -> dict[str, list[dict[str, Any]]]:
    """Rows of each method: of equal phases and settings, measured on all its splits.

    An argument that an optimizer has got since a row was made is at its default there.

    Args:
      all_rows: rows of any methods.
      methods: the methods by their names.
      settings: of the experiment.

    Returns:
      By the same names a method's rows, a seed each; of several with one seed the last.
    """
    alike = collections.defaultdict(list)  # So few are compared in full.
    for row in all_rows:
        if row["settings"] == settings:
            alike[_outline(row["phases"])].append(row)
    return {name: _of(method, alike) for name, method in methods.items()}


def _outline(phases: list[dict[str, Any]]) -> str:
    outline = [[phase.get("optimizer"), phase["epochs"]] for phase in phases]
    return json.dumps(outline, sort_keys=True)


def _of(
    method: Method, alike: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """A method's rows among those with its outline."""
    outlined = [
        {"optimizer": phase.optimizer_name, "epochs": phase.epochs}
        for phase in method.phases
    ]
    candidates = alike.get(_outline(outlined), [])
    if not candidates:
        return []
    phases, by_seed = as_json(method.phases), {}
    defaults = [
        {
            name: value
            for name, value in recorded["hyperparameters"].items()
            if name not in phase.hyperparameters
        }
        for phase, recorded in zip(method.phases, phases, strict=True)
    ]
    for row in candidates:
        if _are(row["phases"], phases, defaults) and (
            set(method.splits) <= _measured(row)
        ):
            by_seed[row["seed"]] = row
    return [by_seed[seed] for seed in sorted(by_seed)]


def most_settings(all_rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The settings that most of some rows have; None if there are no rows."""
    counts = collections.Counter(json.dumps(row["settings"]) for row in all_rows)
    if not counts:
        return None
    most: dict[str, Any] = json.loads(counts.most_common(1)[0][0])
    return most


def _are(
    of_row: list[dict[str, Any]],
    phases: list[dict[str, Any]],
    defaults: list[dict[str, Any]],
) -> bool:
    """Whether a row's phases are these, with the defaults of what they don't say."""
    return len(of_row) == len(phases) and all(
        theirs | {"hyperparameters": default | theirs.get("hyperparameters", {})}
        == phase
        for theirs, phase, default in zip(of_row, phases, defaults, strict=True)
    )


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
