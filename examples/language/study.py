"""What the experiment compares: ways to learn further languages after a first one."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from examples.methods import adamw, classp, ewc, gram, joint, l2_sp, lora, mofo, replay
from examples.methods.checkpoint import Sums
from examples.methods.ewc import EWC
from examples.methods.l2_sp import L2SP
from examples.methods.lora import LoRA
from examples.methods.replay import Replay
from examples.methods.restart import Restart
from examples.runner.plan import Family, Method, Phase
from examples.runner.plugin import Plugin
from examples.runner.study import Front, Study, make_front, of_fronts

# Five values a method: those of AdamW and what acts like it, and those of CLASSP.
_ADAM = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
_CLASSP = (0.01, 0.03, 0.1, 0.3, 1)
_WITHOUT_SUMS = (0.0003, 0.001, 0.003, 0.01, 0.03)  # Its first steps are of their size.
_FIRST = 2e-3  # AdamW's rate on the first language, and on all at once.
_THEN = 1e-3  # AdamW's, where a method has another setting.
_GRAM = 0.3  # The rate of the SGD that is slowed along directions.
_RANK = 8  # Of adapters.
_KEPT = 0.01  # The share of each earlier text that is replayed.
_EXAMPLES = 512  # Windows of a pass, at most.

LIKE: dict[str, Any] = {
    "examples": {name: {"train": 1000} for name in ("first", "second", "third")},
    "batch_size": 16,
    "epochs": [1, 1],
}
"""Settings of the experiment with all that :func:`study` reads."""


class _Languages(NamedTuple):
    """The texts, and phases on them.

    Attributes:
      windows: of each text to train on, by its name.
      epochs: on the first text, and on each later one.
      batch_size: windows a step.
    """

    windows: dict[str, int]
    epochs: tuple[int, int]
    batch_size: int

    @property
    def later(self) -> list[str]:
        return list(self.windows)[1:]

    def steps(self, name: str) -> int:
        """Of a text's phase."""
        epochs = self.epochs[name in self.later]
        return epochs * -(-self.windows[name] // self.batch_size)

    @property
    def examples(self) -> int:
        """Windows of a pass."""
        return min(_EXAMPLES, next(iter(self.windows.values())))

    @property
    def first(self) -> Phase:
        """What all methods begin with."""
        name = next(iter(self.windows))
        hyperparameters = dict(learning_rate=_FIRST, steps=self.steps(name))
        return Phase({name: self.epochs[0]}, "adamw_cosine", hyperparameters)

    def then(
        self,
        optimizer: str,
        learning_rate: float,
        *plugins: Plugin,
        at_first: tuple[Plugin, ...] = (),
        **hyperparameters: Any,
    ) -> tuple[Phase, ...]:
        """AdamW on the first text, then an optimizer on each later one.

        Args:
          optimizer: its name.
          learning_rate: its rate.
          *plugins: of all later phases.
          at_first: further ones of the first of them.
          **hyperparameters: the optimizer's further ones.
        """
        hyperparameters["learning_rate"] = learning_rate
        phases = [
            Phase({name: self.epochs[1]}, optimizer, hyperparameters, plugins)
            for name in self.later
        ]
        second = dataclasses.replace(phases[0], plugins=(*at_first, *plugins))
        return self.first, second, *phases[1:]

    def slowed(self, source: str, learning_rate: float) -> tuple[Phase, ...]:
        """CLASSP behind AdamW, its sums from some source."""
        return self.then("classp", learning_rate, at_first=self.sums(source))

    def consolidated(self, fisher: str, strength: float) -> tuple[Phase, ...]:
        """AdamW with the penalty of EWC added to the loss."""
        penalty = EWC(strength, fisher, self.examples, implicit=False)
        return self.then("adamw", _THEN, Restart(), penalty)

    def decayed(self, learning_rate: float) -> tuple[Phase, ...]:
        """AdamW with a rate that falls to 0 along each phase."""
        return self.first, *(
            Phase(
                {name: self.epochs[1]},
                "adamw_cosine",
                dict(learning_rate=learning_rate, steps=self.steps(name)),
                (Restart(),),
            )
            for name in self.later
        )

    def replayed(self, in_batch: int) -> tuple[Phase, ...]:
        """AdamW on batches in which some windows are of earlier texts."""
        each = max(1, round(_KEPT * next(iter(self.windows.values()))))
        phases = self.then("adamw", _THEN, Restart())
        return phases[0], *(
            dataclasses.replace(
                phase,
                plugins=(*phase.plugins, Replay(None, in_batch, number * each)),
            )
            for number, phase in enumerate(phases[1:], start=1)
        )

    def sums(self, source: str) -> tuple[Plugin, ...]:
        """Sums over as many windows as the first phase took."""
        if source == "moment":
            return (Sums(source),)
        windows = next(iter(self.windows.values()))
        return (Sums(source, self.examples, self.epochs[0] * windows // self.examples),)


def study(settings: dict[str, Any]) -> Study:
    """What is compared on some texts.

    Args:
      settings: of the experiment, as :data:`LIKE`.

    Returns:
      The study; each method's values of its setting are a group.
    """
    windows = {name: of["train"] for name, of in settings["examples"].items()}
    first_epochs, epochs = settings["epochs"]
    of = _Languages(windows, (first_epochs, epochs), settings["batch_size"])
    fronts = _fronts(of)
    together = sum(map(of.steps, windows))
    all_at_once = Phase(
        {name: of.epochs[name in of.later] for name in windows},
        "adamw_cosine",
        dict(learning_rate=_FIRST, steps=together),
    )
    groups = {"all": of_fronts(list(fronts.values()))}
    groups |= {name: front.methods for name, front in fronts.items()}
    groups["joint"] = {
        "joint": Method("All at once, AdamW", (all_at_once,), family=joint.FAMILY)
    }
    return Study(
        experiment="language",
        title=", then ".join(windows),
        table="",
        tasks={name: name for name in windows},
        judged_on=dict.fromkeys(windows, "test"),
        nothing={},
        groups=groups,
        published={},
        fronts=list(fronts.values()),
    )


def _fronts(of: _Languages) -> dict[str, Front]:
    fronts: dict[str, Front] = {}

    def add(
        name: str,
        title: str,
        knob: str,
        family: Family,
        values: tuple[float, ...],
        phases: Callable[[Any], tuple[Phase, ...]],
    ) -> None:
        by_value = {value: phases(value) for value in values}
        fronts[name] = make_front(name, title, knob, family, by_value)

    for source, title in {
        "moment": "sums from AdamW's moment",
        "data": "sums from a pass",
        "unlabelled": "sums from a pass, labels from the model",
    }.items():
        add(
            f"classp_{source}",
            f"CLASSP, {title}",
            "α",
            classp.FAMILY,
            _CLASSP,
            functools.partial(of.slowed, source),
        )
    add(
        "classp_nothing",
        "CLASSP, no sums",
        "α",
        classp.FAMILY,
        _WITHOUT_SUMS,
        lambda a: of.then("classp", a),
    )
    add(
        "gram_data",
        "CLASSP, 64 directions, sums from a pass",
        "κ",
        gram.FAMILY,
        (0.0003, 0.001, 0.003, 0.01, 0.03),
        lambda k: of.then(
            "classp_gram", _GRAM, at_first=(Sums("data", of.examples),), damping=k
        ),
    )
    add(
        "adamw",
        "AdamW",
        "α",
        adamw.FAMILY,
        _ADAM,
        lambda a: of.then("adamw", a, Restart()),
    )
    add("adamw_decayed", "AdamW, α decayed", "α", adamw.FAMILY, _ADAM, of.decayed)
    add(
        "l2_sp",
        "AdamW and L2-SP",
        "λ",
        l2_sp.FAMILY,
        (0.001, 0.003, 0.01, 0.03, 0.1),
        lambda s: of.then("adamw", _THEN, Restart(), L2SP(s)),
    )
    for fisher, (title, strengths) in {
        "examples": ("a pass", (30, 100, 300, 1000, 3000)),
        "moment": ("AdamW's moment", (3000, 10_000, 30_000, 100_000, 300_000)),
    }.items():
        add(
            f"ewc_{fisher}",
            f"AdamW and EWC, Fisher from {title}",
            "λ",
            ewc.FAMILY,
            strengths,
            functools.partial(of.consolidated, fisher),
        )
    add(
        "mofo",
        "MoFO, 15 % of the weights",
        "α",
        mofo.FAMILY,
        _ADAM,
        lambda a: of.then("mofo", a, Restart(), fraction=0.15),
    )
    add(
        "lora_adamw",
        f"AdamW on LoRA, rank {_RANK}",
        "α",
        lora.FAMILY,
        _ADAM,
        lambda a: of.then("adamw", a, LoRA(_RANK), Restart()),
    )
    add(
        "lora_classp",
        f"CLASSP on LoRA, rank {_RANK}, sums from a pass",
        "α",
        lora.FAMILY,
        _CLASSP,
        # A pass has no gradients of the adapters' first factors: with this ε their
        # first steps are SGD's, and not of the size of the rate.
        lambda a: of.then("classp", a, LoRA(_RANK), at_first=of.sums("data"), eps=1.0),
    )
    add(
        "replay",
        f"AdamW and replay of {_KEPT:.0%}",
        "windows a step",
        replay.FAMILY,
        (1, 2, 4, 8, 12),
        of.replayed,
    )
    return fronts
