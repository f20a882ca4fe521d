"""Finds the user's PyTorch optimizer class, in a file or a module."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch

from classp_jax.verify._torch_optimizer import InputError

# What the command itself imports from a checkout, and many a user's folder has, too.
_OF_THE_CHECKOUT = ("examples", "tests")


def load_class(location: str) -> type[torch.optim.Optimizer]:
    """The class at ``path/to/file.py:ClassName`` or ``package.module:ClassName``.

    Args:
      location: the file or module, a colon, and the name of the class in it.

    Returns:
      The class. A file is run, as an import would; it finds the modules beside it,
      which are found by nothing else.

    Raises:
      InputError: if there is no such file, module or class, it can't be run, or the
        class isn't an Optimizer.
    """
    where, colon, name = location.rpartition(":")
    if not colon or not where or not name:
        raise InputError(
            f"expected path/to/file.py:ClassName or module:ClassName, got {location!r}"
        )
    is_file = where.endswith(".py") or os.sep in where
    if is_file and not pathlib.Path(where).is_file():
        raise InputError(f"there is no file {where!r}")
    try:
        module = (
            _run(pathlib.Path(where).resolve())
            if is_file
            else importlib.import_module(where)
        )
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{where!r} can't be imported: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if found is None:
        raise InputError(f"there is no {name!r} in {where!r}")
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise InputError(f"{name!r} in {where!r} is not a torch.optim.Optimizer class")
    return found


def _run(path: pathlib.Path) -> ModuleType:
    name = path.stem
    known = sys.modules.get(name)
    is_own = known is not None and getattr(known, "__file__", None) == str(path)
    if name in sys.stdlib_module_names or (known is not None and not is_own):
        name = f"{name} of --torch-optimizer"  # Others need theirs.
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Where dataclasses look for it.
    with _neighbours_first(str(path.parent)):
        spec.loader.exec_module(module)
    return module


class _Neighbours(importlib.abc.MetaPathFinder):
    """Finds the modules of a folder, except those that Python has of that name."""

    def __init__(self, folder: str) -> None:
        self._path = [folder]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if path is not None or fullname in sys.stdlib_module_names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, self._path)
        return spec if spec is not None and spec.loader is not None else None


@contextlib.contextmanager
def _neighbours_first(folder: str) -> Iterator[None]:
    """Lets a folder's modules be imported: first within the block, last after it."""
    if folder not in sys.path:
        sys.path.append(folder)
    ours = _pop_modules()
    finder = _Neighbours(folder)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _pop_modules()
        sys.modules.update(ours)


def _pop_modules() -> dict[str, ModuleType]:
    names = [n for n in sys.modules if n.partition(".")[0] in _OF_THE_CHECKOUT]
    return {name: sys.modules.pop(name) for name in names}
