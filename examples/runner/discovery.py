"""Finds the files of a folder, so that a new one needs no entry elsewhere."""

import importlib
import pkgutil
from types import ModuleType


def modules(package: str) -> list[ModuleType]:
    """Imports every module of a package.

    Args:
      package: its name, such as ``examples.methods``.

    Returns:
      The modules, in the order of their names.
    """
    folder = importlib.import_module(package)
    names = sorted(module.name for module in pkgutil.iter_modules(folder.__path__))
    return [importlib.import_module(f"{package}.{name}") for name in names]
