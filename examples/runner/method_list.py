"""The list of a study's methods, which a command prints at ``--list-methods``."""

import argparse
from typing import Any

from examples.runner.study import Study, families


class ListMethods(argparse.Action):
    """Prints a study's methods and ends, as ``--help`` does."""

    def __init__(self, *args: Any, study: Study, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._study = study

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Prints them."""
        print("\n".join(list_methods(self._study)))
        parser.exit()


def list_methods(study: Study) -> list[str]:
    """A line for each family of names and each single one, and one for each group."""
    titles = {}
    for front in study.fronts:
        names = ", ".join(families(front.methods))
        titles[names] = f"{front.title}, {front.knob}"
    swept = {name for front in study.fronts for name in front.methods}
    titles |= {n: m.title for n, m in study.methods.items() if n not in swept}
    return [
        *(f"{title}: {name}" for name, title in titles.items()),
        "Groups: " + ", ".join(f"{n} ({len(of)})" for n, of in study.groups.items()),
    ]
