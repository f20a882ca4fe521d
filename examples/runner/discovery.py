"""Finds the files of a folder, so that a new one needs no entry elsewhere."""

import difflib
import importlib
import pkgutil
from typing import Any


def values(package: str, name: str) -> dict[str, Any]:
    """What the modules of a package that have a variable say there.

    Args:
      package: its name, such as ``examples.methods``; all of its modules are imported.
      name: the variable's.

    Returns:
      The values by the modules' names, in their order.

    Raises:
      AttributeError: a module has none of that name, but one that looks like it.
    """
    found = {}
    folder = importlib.import_module(package)
    for file in sorted(module.name for module in pkgutil.iter_modules(folder.__path__)):
        module = importlib.import_module(f"{package}.{file}")
        if hasattr(module, name):
            found[file] = getattr(module, name)
        elif close := difflib.get_close_matches(name, vars(module), 1, 0.8):
            raise AttributeError(f"{module.__name__} has {close[0]}: name it {name}.")
    return found
