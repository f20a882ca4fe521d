"""Joint training, on all tasks at once: the upper bound, and no continual learning."""

from examples.methods.registry import RATES, Sweep, TaskSequence
from examples.runner.plan import Family, Phase

FAMILY = Family("Joint", "#000000")


def _all_at_once(sequence: TaskSequence, rate: float) -> tuple[Phase, ...]:
    epochs = dict.fromkeys(sequence.tasks, sequence.epochs)
    return (Phase(epochs, "sgd", dict(learning_rate=rate)),)


SWEEPS = [Sweep("joint", "Joint training", "α", RATES, _all_at_once, FAMILY)]
