"""What an experiment compares: methods, each a sequence of training phases."""

import dataclasses
import difflib
import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax
import optax.contrib

import classp_jax
from classp_jax import baselines
from examples.storage import classp_stored


@dataclasses.dataclass(frozen=True)
class Replay:
    """Examples of earlier tasks kept and mixed into the batches of a later one.

    Attributes:
      share: of the first task's examples, how many are kept, 0 to 1; None to keep
        ``memory`` instead.
      in_batch: how many of a batch's examples are drawn from them.
      memory: how many examples are kept, as many of each task that stands before the
        phase's; a task's share shrinks with every further one.
    """

    share: float | None
    in_batch: int
    memory: int | None = None


@dataclasses.dataclass(frozen=True)
class EWC:
    """Elastic weight consolidation's penalty, before the optimizer.

    Attributes:
      strength: lambda, of a penalty of lambda / 2 times the weighted squared distance.
      fisher: ``"examples"``, the mean squared gradient of single examples of the phase
        before at the weights that it ended with, which are the anchor; ``"steps"``, as
        the paper's text experiment has it: the mean squared gradient of the batches
        that led to those weights, summed by an optimizer with ``power=2``; or
        ``"batches"``, as its vision experiment has it: the squared gradients of one
        epoch's batches, summed and divided by the number of examples, along the first
        epoch of a network initialised separately, whose weights are the anchor.
      examples: how many examples ``"examples"`` takes.
      implicit: whether the penalty's step is solved implicitly, stable at any strength.
      decay: where ``"examples"`` are taken at several boundaries: None for the sum of
        their penalties; a number for online EWC, which multiplies the Fisher so far by
        it and draws to the last weights alone.
    """

    strength: float
    fisher: str = "examples"
    examples: int = 4000
    implicit: bool = True
    decay: float | None = None


@dataclasses.dataclass(frozen=True)
class SynapticIntelligence:
    """Synaptic Intelligence around SGD, the penalty's step solved implicitly.

    Attributes:
      strength: lambda, as EWC's; twice the c of its paper.
      damping: xi, for weights that hardly move.
    """

    strength: float
    damping: float = 0.1


@dataclasses.dataclass(frozen=True)
class Phase:
    """Training on some data with one optimizer.

    Attributes:
      epochs: how often each task's data are passed over, at most; several tasks are
        mixed.
      optimizer: a key of :data:`OPTIMIZERS`; the name of an optimizer of ``optax`` or
        ``optax.contrib``; or a function that makes one. The rows know a function by its
        module and name, so that it has another name whenever it changes, and that what
        varies is a hyperparameter. If it collects a sum of another power than 1, it has
        an argument ``power`` that says so.
      hyperparameters: what to call it with, by name: numbers, strings, dtypes, None.
      ewc: the penalty, if any.
      replay: the examples replayed, if any.
      stop_loss: ends the phase behind the epoch whose last batch's loss is at most
        this, if not None; with EWC's penalty counted in where that is explicit, as in
        the paper's experiment.
      si: Synaptic Intelligence, if any; the importances go on from phase to phase where
        all have it.
    """

    epochs: dict[str, int]
    optimizer: str | Callable[..., optax.GradientTransformation]
    hyperparameters: dict[str, Any]
    ewc: EWC | None = None
    replay: Replay | None = None
    stop_loss: float | None = None
    si: SynapticIntelligence | None = None


class Method(NamedTuple):
    """A row of a table, or a point of a figure.

    Attributes:
      title: what to call it there.
      phases: what it does, one after the other. The optimizer's state goes on from
        phase to phase where the next one's has the same structure; the sum that CLASSP
        collects goes on in any case, or is refused where it has another form.
      splits: on which of each task's splits accuracy is measured at the end.
    """

    title: str
    phases: tuple[Phase, ...]
    splits: tuple[str, ...] = ("test",)


def as_json(phases: tuple[Phase, ...]) -> list[dict[str, Any]]:
    """The phases as a row of results has them; equal for equal computations.

    Every hyperparameter is there, those left at their defaults too, but for defaults
    that JSON can't hold; what a phase does without isn't.

    Raises:
      ValueError: an optimizer has no name, or none that is known.
      TypeError: a hyperparameter is none of the optimizer's, or JSON can't hold it.
    """
    content = []
    for phase in phases:
        resolved = dataclasses.replace(
            phase, optimizer=name_of(phase.optimizer), hyperparameters=_recorded(phase)
        )
        of_phase = _without_none(dataclasses.asdict(resolved))
        for key in ("ewc", "replay", "si"):
            if key in of_phase:
                of_phase[key] = _without_none(of_phase[key])
        content.append(of_phase)
    return json.loads(json.dumps(content))


def _recorded(phase: Phase) -> dict[str, Any]:
    """A phase's hyperparameters, as JSON has them."""
    content = {}
    for key, value in arguments(phase).items():
        try:
            content[key] = json.loads(
                json.dumps(value, default=_plain, allow_nan=False)
            )
        except (TypeError, ValueError) as error:
            if key not in phase.hyperparameters:
                continue
            raise TypeError(
                f"{name_of(phase.optimizer)}: a row can't hold {key}={value!r}, only"
                " finite numbers, strings, dtypes and None. Write a function that makes"
                " the optimizer with it, and give that as the phase's optimizer."
            ) from error
    return content


def _plain(value: Any) -> Any:
    """NumPy's and JAX's scalars and dtypes, as JSON has them."""
    return value.item() if hasattr(value, "item") else np.dtype(value).name


def _without_none(content: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in content.items() if v is not None}


def collecting_all(
    learning_rate: float, threshold: float, apply_decay: bool = True, **mask: Any
) -> optax.GradientTransformation:
    """Algorithm 1, but that the sum takes in every gradient, whatever the mask."""
    scale = classp_jax.scale_by_accumulated_power_norm()
    return optax.chain(
        classp_jax.threshold_mask(
            threshold, inner=classp_jax.decay_gate(scale, apply_decay), **mask
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def masked_sgd(learning_rate: float, **mask: Any) -> optax.GradientTransformation:
    """The threshold of CLASSP without its sum."""
    return optax.chain(
        classp_jax.threshold_mask(**mask), optax.scale_by_learning_rate(learning_rate)
    )


def classp_self_opening(
    learning_rate: float,
    ratio: float = 2.0,
    margin: float = 0.1,
    fast: float = 0.9,
    slow: float = 0.99,
) -> optax.GradientTransformation:
    """Algorithm 1, the gate of which opens where the loss first jumps."""
    make_optimizer = optax.inject_hyperparams(
        functools.partial(classp_jax.classp, learning_rate),
        static_args=("threshold", "power", "eps"),
    )
    return make_optimizer(apply_decay=classp_jax.loss_jump(ratio, margin, fast, slow))


OPTIMIZERS = {
    "adagrad": optax.adagrad,
    "adam": optax.adam,
    "classp": classp_jax.classp,
    "classp_equation1": classp_jax.classp_equation1,
    "classp_released": classp_jax.classp_released,
    "classp_self_opening": classp_self_opening,
    "classp_stored": classp_stored,
    "collecting_all": collecting_all,
    "masked_sgd": masked_sgd,
    "sgd": optax.sgd,
}


@functools.cache
def _of_optax() -> Mapping[str, Callable[..., optax.GradientTransformation]]:
    """Optax's optimizers: what takes a learning rate, and isn't a part of one.

    But for the schedule-free ones: they train other weights than are to be evaluated.
    """
    return {
        name: make
        for module in (optax.contrib, optax)
        for name, make in vars(module).items()
        if inspect.isfunction(getattr(make, "func", make))  # Or a partial one.
        and not name.startswith(("_", "scale_by", "schedule_free"))
        and any(key.endswith("learning_rate") for key in _parameters(make))
    }


def _parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(make).parameters


def maker(
    optimizer: str | Callable[..., optax.GradientTransformation],
) -> Callable[..., optax.GradientTransformation]:
    """The function that makes a phase's optimizer.

    Args:
      optimizer: as :class:`Phase` takes it.

    Returns:
      The function.

    Raises:
      ValueError: there is no optimizer of that name.
      TypeError: it is neither a name nor a function.
    """
    if isinstance(optimizer, str):
        known = _of_optax() | OPTIMIZERS
        if optimizer in known:
            return known[optimizer]
        close = ", ".join(difflib.get_close_matches(optimizer, known)) or "none"
        raise ValueError(
            f"There is no optimizer {optimizer!r} (close to it: {close}). Known are"
            f" {', '.join(OPTIMIZERS)}, and of Optax"
            f" {', '.join(sorted(_of_optax().keys() - OPTIMIZERS.keys()))}; or give a"
            " function that makes one."
        )
    if callable(optimizer):
        return optimizer
    raise TypeError(
        "A phase's optimizer is a name or a function that makes one, such as"
        f" optax.adam; its arguments are the hyperparameters. Got {optimizer!r}."
    )


def name_of(optimizer: str | Callable[..., optax.GradientTransformation]) -> str:
    """The name under which the rows have a phase's optimizer.

    Args:
      optimizer: as :class:`Phase` takes it.

    Returns:
      The name by which it is known, or module and name of a function of one's own.

    Raises:
      ValueError: that wouldn't tell it from others: it is a lambda, depends on
        variables of the function that it stands in, or has arguments without a name.
      TypeError: it is neither a name nor a function.
    """
    if isinstance(optimizer, str):
        return optimizer
    make = maker(optimizer)
    for name, known in (_of_optax() | OPTIMIZERS).items():
        if known is make:
            return name
    if isinstance(make, functools.partial) and not make.args:
        return name_of(make.func)
    name = getattr(make, "__qualname__", "<nameless>")
    captured = inspect.getclosurevars(make).nonlocals if "<locals>" in name else {}
    if name.endswith((">", "<lambda>")) or captured:
        why = f"depends on {', '.join(captured)} around it" if captured else "has none"
        raise ValueError(
            f"The rows know an optimizer by its name, and {make!r} {why}. Write it as a"
            " function with a name, of which all that varies is a hyperparameter."
        )
    return f"{make.__module__}.{name}"


def arguments(phase: Phase) -> dict[str, Any]:
    """What a phase's optimizer is made with, its defaults too.

    Raises:
      ValueError: there is no optimizer of that name.
      TypeError: a hyperparameter is none of its arguments, or one is missing.
    """
    make = maker(phase.optimizer)
    try:
        bound = inspect.signature(make).bind(**phase.hyperparameters)
    except TypeError as error:
        raise TypeError(
            f"{name_of(phase.optimizer)}: {error}; it takes"
            f" {', '.join(_parameters(make))}."
        ) from error
    bound.apply_defaults()
    return bound.arguments


def kind_of_sum(phase: Phase) -> str:
    """What a phase's optimizer sums, if it does, in words; equal for equal sums."""
    of = arguments(phase)
    released = name_of(phase.optimizer) == "classp_released"  # Whatever its power.
    power = 1 if released else of.get("power", 1)
    storage = f", stored as {of['storage']}" if "storage" in of else ""
    return f"|g|^{float(power):g}{storage}"


def make_optimizer(
    phase: Phase, fisher: optax.Params = None, anchor: optax.Params = None
) -> optax.GradientTransformation:
    """Builds a phase's optimizer.

    Args:
      phase: the phase.
      fisher: the Fisher diagonal, if the phase has EWC's penalty.
      anchor: the weights that the penalty draws to, likewise.

    Returns:
      An Optax transformation.

    Raises:
      ValueError: there is no optimizer of that name, or a hyperparameter is out of its
        range.
      TypeError: a hyperparameter is none of the optimizer's, or of another type; or
        what the function makes is no Optax transformation.
    """
    rate = arguments(phase).get("learning_rate")
    optimizer = maker(phase.optimizer)(**phase.hyperparameters)
    name = name_of(phase.optimizer)
    if not all(callable(getattr(optimizer, of, None)) for of in ("init", "update")):
        raise TypeError(f"{name} must make an Optax transformation, got {optimizer!r}.")
    if rate is None and (phase.si or (phase.ewc and phase.ewc.implicit)):
        raise ValueError(
            f"{name} has no learning_rate, with which the penalty's step is solved"
            " implicitly."
        )
    if phase.si:
        optimizer = baselines.synaptic_intelligence(optimizer, phase.si.strength, rate)
    if phase.ewc is None:
        return optimizer
    rate = rate if phase.ewc.implicit else 0.0
    penalty = baselines.ewc_penalty(fisher, anchor, phase.ewc.strength, rate)
    return optax.chain(penalty, optimizer)
