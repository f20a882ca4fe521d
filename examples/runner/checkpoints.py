"""Checkpoints of training: along a phase, by Orbax, and of what follows from it."""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import jax
import numpy as np

from examples.runner.arrays import as_numpy, described, placed

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager


class CheckpointError(Exception):
    """A checkpoint that can't be written or used; the message tells what to do."""


class Saving(NamedTuple):
    """Where and how often the state of training is saved.

    Attributes:
      folder: of all checkpoints.
      every: steps between two of a phase, rounded up to whole calls of the compiled
        loop.
      keep: how many of a phase are kept.
    """

    folder: pathlib.Path
    every: int = 500
    keep: int = 2


class Trail:
    """The checkpoints along one phase, each whole or not there at all.

    One process alone writes those of a phase; another that trains it too makes none.

    Args:
      name: of their folder: another one for each phase.
      made_by: what makes them, dictionaries by their names, that JSON can hold. A
        checkpoint that something else made isn't used.
      saving: where and how often; None for no checkpoints.

    Raises:
      CheckpointError: the folder can't be written.
    """

    def __init__(
        self, name: str, made_by: dict[str, dict[Any, Any]], saving: Saving | None
    ):
        self._last = 0
        self._manager: CheckpointManager | None = None
        self._lock: TextIO | None = None
        if not saving:
            return
        import orbax.checkpoint as ocp  # Here, as it takes half a second.

        self._args = ocp.args
        self._folder = (saving.folder / name).absolute()
        self._made_by = json.loads(json.dumps(made_by))
        self._every = saving.every
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self._folder / "lock").open("w")
            if not _locked(self._lock):
                print(
                    f"{self._folder} is in use by another process; this one trains the"
                    " same without checkpoints.",
                    file=sys.stderr,
                )
                return
            options = ocp.CheckpointManagerOptions(
                max_to_keep=saving.keep, cleanup_tmp_directories=True
            )
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except OSError as error:
            raise _unwritable(self._folder, error) from error

    def restore(
        self, like: Callable[[dict[str, Any]], Any]
    ) -> tuple[dict[str, Any], Any] | None:
        """Reads the newest checkpoint.

        Args:
          like: makes of the progress a pytree with the structure, shapes, dtypes and
            devices of the one saved beside it.

        Returns:
          The progress and the pytree; None if there is no checkpoint.

        Raises:
          CheckpointError: it is damaged, or something else made it.
        """
        manager = self._manager
        steps = sorted(manager.all_steps()) if manager else []
        if not manager or not steps:
            return None
        *older, self._last = steps
        path = self._folder / str(self._last)
        start = f"step {older[-1]}" if older else "the beginning of the phase"
        remedy = f"delete it, and the same command goes on from {start}"
        with _reading(path, remedy):
            kept = self._read(manager, progress=self._args.JsonRestore()).progress
            made_by, progress, sums = (
                kept[key] for key in ("made_by", "progress", "crc32")
            )
        tree = like(progress)
        wanted = as_numpy(tree, lambda x: np.empty(x.shape, x.dtype))
        made_here = self._made_by | {"tensor": described(wanted)}
        for what, here in made_here.items():
            _check_same(path, what, made_by.get(what, {}), here, remedy)
        with _reading(path, remedy):
            arrays = self._read(manager, state=self._args.StandardRestore(wanted)).state
            for name, array in arrays.items():
                if zlib.crc32(array.tobytes()) != sums[name]:
                    raise ValueError(f"{name} isn't what was written")
        leaves, structure = jax.tree.flatten(tree)
        leaves = [placed(arrays[k], x) for k, x in zip(wanted, leaves, strict=True)]
        return progress, jax.tree.unflatten(structure, leaves)

    def is_due(self, step: int) -> bool:
        """Whether the last checkpoint is long enough ago."""
        return self._manager is not None and step - self._last >= self._every

    def save(self, step: int, progress: dict[str, Any], tree: Any) -> None:
        """Saves a copy in the background, unless there is one of that step.

        Args:
          step: of the phase, above 0.
          progress: whatever JSON can hold.
          tree: a pytree of arrays.

        Raises:
          CheckpointError: it can't be written, or the one before couldn't.
        """
        if self._manager is None or step == self._last:
            return
        arrays = as_numpy(tree, np.array)
        kept = {
            "made_by": self._made_by | {"tensor": described(arrays)},
            "crc32": {name: zlib.crc32(x.tobytes()) for name, x in arrays.items()},
            "progress": json.loads(json.dumps(progress)),  # A copy as well.
        }
        items = self._args.Composite(
            progress=self._args.JsonSave(kept), state=self._args.StandardSave(arrays)
        )
        with self._writing(self._manager):
            self._manager.save(step, args=items)
        self._last = step

    def wait(self) -> None:
        """Waits until what was saved is written.

        Raises:
          CheckpointError: it couldn't be.
        """
        if self._manager is not None:
            with self._writing(self._manager):
                self._manager.wait_until_finished()

    def close(self, *, delete: bool = False) -> None:
        """Ends the writing; :meth:`wait` says whether it went well.

        Args:
          delete: whether to remove the checkpoints, as what they led to is kept.
        """
        if self._manager is not None:
            with contextlib.suppress(Exception):
                self._manager.close()
            if delete:
                shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def _read(self, manager: "CheckpointManager", **items: Any) -> Any:
        return manager.restore(self._last, args=self._args.Composite(**items))

    @contextlib.contextmanager
    def _writing(self, manager: "CheckpointManager") -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax passes on what any of its libraries raises.
            steps = manager.all_steps(read=True)
            there = f"those of the steps {sorted(steps)}" if steps else "none"
            raise CheckpointError(
                f"{self._folder}: a checkpoint can't be written ({_in_a_line(error)});"
                f" there are {there}."
            ) from error


def save(file: pathlib.Path, tree: Any, results: Any) -> None:
    """Writes one file, whole or not at all.

    Args:
      file: an ``.npz``; its folder is made if it isn't there.
      tree: a pytree of arrays.
      results: whatever JSON can hold.

    Raises:
      CheckpointError: it can't be written.
    """
    arrays = {str(i): x for i, x in enumerate(jax.tree.leaves(tree))}
    partial = file.with_suffix(f".{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as opened:
                np.savez(opened, results=json.dumps(results), **arrays)
                opened.flush()
                os.fsync(opened.fileno())
            partial.rename(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(file, error) from error


def load(file: pathlib.Path, like: Any) -> tuple[Any, Any]:
    """Reads what :func:`save` wrote.

    Args:
      file: the file.
      like: a pytree of the structure, shapes, dtypes and devices of the one saved.

    Returns:
      The pytree and the results.

    Raises:
      CheckpointError: the file is damaged, or holds something else.
    """
    remedy = "delete it, and the same command trains anew what it held"
    wanted = as_numpy(like, lambda x: np.empty(x.shape, x.dtype))
    with _reading(file, remedy), np.load(file, allow_pickle=False) as arrays:
        results = json.loads(str(arrays["results"]))
        stored = [arrays[str(i)] for i in range(len(arrays.files) - 1)]
    there, here = ({"tensors": len(x)} for x in (stored, wanted))
    _check_same(file, "number of", there, here, remedy)
    # NumPy knows bfloat16 by its bytes alone.
    found = {
        name: x.view(w.dtype) if x.dtype == f"V{w.dtype.itemsize}" else x
        for (name, w), x in zip(wanted.items(), stored, strict=True)
    }
    _check_same(file, "tensor", described(found), described(wanted), remedy)
    leaves, structure = jax.tree.flatten(like)
    leaves = [placed(x, w) for x, w in zip(found.values(), leaves, strict=True)]
    return jax.tree.unflatten(structure, leaves), results


def _locked(file: TextIO) -> bool:
    """Locks a file for this process, unless another has."""
    import fcntl  # Not on Windows, where array_record isn't either.

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _reading(path: pathlib.Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # NumPy and Orbax pass on what their libraries raise.
        raise CheckpointError(
            f"{path} is damaged ({_in_a_line(error)}): {remedy}."
        ) from error


def _check_same(
    path: pathlib.Path,
    what: str,
    there: dict[str, Any],
    here: dict[str, Any],
    remedy: str,
) -> None:
    for key in {**here, **there}:
        if here.get(key) != there.get(key):
            raise CheckpointError(
                f"{path} isn't of this run: {what} {key} is {there.get(key)} there and"
                f" {here.get(key)} here. Go on with that, or {remedy}."
            )


def _unwritable(path: pathlib.Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} can't be written ({_in_a_line(error)})")


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
