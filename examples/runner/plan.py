"""What an experiment compares: methods, each a sequence of training phases."""

import dataclasses
import json
from typing import Any, NamedTuple

import numpy as np
import optax

from examples.runner import optimizers
from examples.runner.optimizers import Maker
from examples.runner.plugin import Plugin


@dataclasses.dataclass(frozen=True)
class Phase:
    """Training on some data with one optimizer.

    Attributes:
      epochs: how often each task's data are passed over, at most; several tasks are
        mixed.
      optimizer: the name of an optimizer of ``optax``, ``optax.contrib`` or
        ``classp_jax``; or a function that makes one. The rows know a function by its
        module and name, so that it has another name whenever it changes, and that what
        varies is a hyperparameter. If it collects a sum of another power than 1, it has
        an argument ``power`` that says so.
      hyperparameters: what to call it with, by name: numbers, strings, dtypes, None.
      plugins: what else the method has: a penalty, examples replayed.
      stop_loss: ends the phase behind the epoch whose last batch's loss is at most
        this, if not None; with a penalty counted in where that is explicit.
    """

    epochs: dict[str, int]
    optimizer: str | Maker
    hyperparameters: dict[str, Any]
    plugins: tuple[Plugin, ...] = ()
    stop_loss: float | None = None

    @property
    def optimizer_name(self) -> str:
        """The name under which the rows have its optimizer."""
        return optimizers.name_of(self.optimizer)

    @property
    def arguments(self) -> dict[str, Any]:
        """What its optimizer is made with, the defaults too."""
        return optimizers.arguments(self.optimizer, self.hyperparameters)

    @property
    def learning_rate(self) -> Any:
        """That of its optimizer, for penalties whose step is solved implicitly.

        Raises:
          ValueError: it has none.
        """
        if (rate := self.arguments.get("learning_rate")) is None:
            raise ValueError(
                f"{self.optimizer_name} has no learning_rate, with which the penalty's"
                " step is solved implicitly."
            )
        return rate


class Family(NamedTuple):
    """Methods that figures draw in one colour.

    Attributes:
      title: what to call them.
      colour: of their lines, as Matplotlib takes it.
      ours: whether it is a method of this project, which figures bring out.
    """

    title: str
    colour: str
    ours: bool = False

    @property
    def width(self) -> float:
        """Of their lines, in points."""
        return 2.4 if self.ours else 1.4


OTHER = Family("Other", "#767676")


class Method(NamedTuple):
    """A row of a table, or a point of a figure.

    Attributes:
      title: what to call it there.
      phases: what it does, one after the other. The optimizer's state goes on from
        phase to phase where the next one's has the same structure; the sum that CLASSP
        collects goes on in any case, or is refused where it has another form.
      splits: on which of each task's splits accuracy is measured at the end.
      family: whose colour it has in figures.
    """

    title: str
    phases: tuple[Phase, ...]
    splits: tuple[str, ...] = ("test",)
    family: Family = OTHER


def as_json(phases: tuple[Phase, ...]) -> list[dict[str, Any]]:
    """The phases as a row of results has them; equal for equal computations.

    Every hyperparameter is there, those left at their defaults too, but for defaults
    that JSON can't hold; what a phase does without isn't.

    Raises:
      ValueError: an optimizer has no name, or none that is known.
      TypeError: a hyperparameter is none of the optimizer's, or JSON can't hold it.
    """
    content = []
    recorded: dict[tuple[int, int], dict[str, Any]] = {}  # Most phases share theirs.
    for phase in phases:
        key = id(phase.optimizer), id(phase.hyperparameters)
        if key not in recorded:
            recorded[key] = _recorded(phase)
        of_phase: dict[str, Any] = {
            "epochs": phase.epochs,
            "optimizer": phase.optimizer_name,
            "hyperparameters": recorded[key],
            **{plugin.key: plugin.as_json() for plugin in phase.plugins},
        }
        if phase.stop_loss is not None:
            of_phase["stop_loss"] = phase.stop_loss
        content.append(of_phase)
    plain: list[dict[str, Any]] = json.loads(json.dumps(content))
    return plain


def _recorded(phase: Phase) -> dict[str, Any]:
    """A phase's hyperparameters, as JSON has them."""
    content = {}
    for key, value in phase.arguments.items():
        try:
            content[key] = json.loads(
                json.dumps(value, default=_plain, allow_nan=False)
            )
        except (TypeError, ValueError) as error:
            if key not in phase.hyperparameters:
                continue
            raise TypeError(
                f"{phase.optimizer_name}: a row can't hold {key}={value!r}, only"
                " finite numbers, strings, dtypes and None. Write a function that makes"
                " the optimizer with it, and give that as the phase's optimizer."
            ) from error
    return content


def _plain(value: Any) -> Any:
    """NumPy's and JAX's scalars and dtypes, as JSON has them."""
    return value.item() if hasattr(value, "item") else np.dtype(value).name


def make_optimizer(
    phase: Phase, zeros: optax.Params = None
) -> optax.GradientTransformation:
    """Builds what a phase trains with: its optimizer, and its plugins around it.

    Args:
      phase: the phase.
      zeros: shaped like the weights; needed if a plugin does.

    Returns:
      An Optax transformation.

    Raises:
      ValueError: there is no optimizer of that name, or a hyperparameter is out of its
        range.
      TypeError: a hyperparameter is none of the optimizer's, or of another type; or
        what the function makes is no Optax transformation.
    """
    # Bound before it is called, for an error that says what it takes.
    optimizers.arguments(phase.optimizer, phase.hyperparameters)
    optimizer = optimizers.maker(phase.optimizer)(**phase.hyperparameters)
    if not all(callable(getattr(optimizer, of, None)) for of in ("init", "update")):
        raise TypeError(
            f"{phase.optimizer_name} must make an Optax transformation, got"
            f" {optimizer!r}."
        )
    for plugin in phase.plugins:
        optimizer = plugin.wrap(optimizer, phase, zeros)
    return optimizer
