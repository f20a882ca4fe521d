"""CLASSP (Ludwig 2024), and optimizers that have some of its parts alone."""

import functools
from collections.abc import Callable
from typing import Any

import optax

import classp_jax
from examples.methods.registry import (
    ADAPTIVE_RATES,
    RATE,
    RATES,
    Sweep,
    TaskSequence,
    same_throughout,
)
from examples.runner.optimizers import Maker, register_optimizer
from examples.runner.plan import Family, Phase

FAMILY = Family("CLASSP", "#d55e00", ours=True)


@register_optimizer
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


@register_optimizer
def masked_sgd(learning_rate: float, **mask: Any) -> optax.GradientTransformation:
    """The threshold of CLASSP without its sum."""
    return optax.chain(
        classp_jax.threshold_mask(**mask), optax.scale_by_learning_rate(learning_rate)
    )


@register_optimizer
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


def collect(
    sequence: TaskSequence,
    rate: float,
    optimizer: str | Maker = "classp",
    **hyperparameters: Any,
) -> tuple[Phase, ...]:
    """CLASSP with the decay from the second task on; the first collects alone."""
    closed, *_ = sequence.phases(optimizer, rate, apply_decay=False, **hyperparameters)
    return closed, *sequence.phases(optimizer, rate, **hyperparameters)[1:]


def _gate_opened(
    optimizer: str | Maker = "classp", **hyperparameters: Any
) -> Callable[[TaskSequence, float], tuple[Phase, ...]]:
    return lambda sequence, rate: collect(sequence, rate, optimizer, **hyperparameters)


def _relative_threshold(
    optimizer: str | Maker,
) -> Callable[[TaskSequence, float], tuple[Phase, ...]]:
    def phases(sequence: TaskSequence, rate: float) -> tuple[Phase, ...]:
        first, *_ = collect(sequence, rate)
        then = sequence.phases(optimizer, rate, threshold=10, relative=True)
        return first, *then[1:]

    return phases


def _sgd_then(sequence: TaskSequence, rate: float) -> tuple[Phase, ...]:
    """The first task as the penalties' SGD learns it, whatever the rate is later."""
    first, *_ = collect(sequence, RATE)
    return first, *collect(sequence, rate)[1:]


def _sweep(
    name: str,
    title: str,
    phases: Callable[[TaskSequence, float], tuple[Phase, ...]],
    values: tuple[float, ...] = RATES,
) -> Sweep:
    return Sweep(name, title, "α", values, phases, FAMILY)


SWEEPS = [
    _sweep("classp", "CLASSP", collect),
    # No step is then longer than one without the decay.
    _sweep("classp_bounded", "CLASSP, ε 1", _gate_opened(eps=1.0)),
    _sweep("classp_factored", "CLASSP, factored sum", _gate_opened(factored=True)),
    _sweep(
        "classp_relative", "CLASSP, g² > 10·mean(g²)", _relative_threshold("classp")
    ),
    _sweep(
        "classp_relative_all",
        "CLASSP, g² > 10·mean(g²), all collected",
        _relative_threshold(collecting_all),
    ),
    _sweep(
        "classp_always",
        "CLASSP, decay always on",
        same_throughout("classp"),
        ADAPTIVE_RATES,
    ),
    _sweep("classp_then", f"SGD at {RATE}, then CLASSP", _sgd_then, ADAPTIVE_RATES),
    _sweep(
        "classp_self",
        "CLASSP, gate opens itself",
        same_throughout(classp_self_opening),
    ),
]
