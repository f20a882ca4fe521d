"""What an experiment compares: methods, each a sequence of training phases."""

import dataclasses
import functools
import inspect
import json
from typing import Any, NamedTuple

import optax

import classp_jax
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
      optimizer: a key of :data:`OPTIMIZERS`.
      hyperparameters: what to call it with.
      ewc: the penalty, if any.
      replay: the examples replayed, if any.
      stop_loss: ends the phase behind the epoch whose last batch's loss is at most
        this, if not None; with EWC's penalty counted in where that is explicit, as in
        the paper's experiment.
      si: Synaptic Intelligence, if any; the importances go on from phase to phase where
        all have it.
    """

    epochs: dict[str, int]
    optimizer: str
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
        collects goes on in any case.
      splits: on which of each task's splits accuracy is measured at the end.
    """

    title: str
    phases: tuple[Phase, ...]
    splits: tuple[str, ...] = ("test",)


def as_json(phases: tuple[Phase, ...]) -> list[dict[str, Any]]:
    """The phases as a row of results has them; equal for equal computations.

    Every hyperparameter is there, those left at their defaults too; what a phase does
    without isn't.
    """
    content = []
    for phase in phases:
        signature = inspect.signature(OPTIMIZERS[phase.optimizer])
        bound = signature.bind(**phase.hyperparameters)
        bound.apply_defaults()
        resolved = dataclasses.replace(phase, hyperparameters=bound.arguments)
        of_phase = _without_none(dataclasses.asdict(resolved))
        for key in ("ewc", "replay", "si"):
            if key in of_phase:
                of_phase[key] = _without_none(of_phase[key])
        content.append(of_phase)
    return json.loads(json.dumps(content))


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
    """
    optimizer = OPTIMIZERS[phase.optimizer](**phase.hyperparameters)
    rate = phase.hyperparameters["learning_rate"]
    if phase.si:
        optimizer = classp_jax.synaptic_intelligence(optimizer, phase.si.strength, rate)
    if phase.ewc is None:
        return optimizer
    rate = rate if phase.ewc.implicit else 0.0
    penalty = classp_jax.ewc_penalty(fisher, anchor, phase.ewc.strength, rate)
    return optax.chain(penalty, optimizer)
