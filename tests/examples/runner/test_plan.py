"""Phases as the rows have them."""

from examples.methods.ewc import EWC
from examples.methods.replay import Replay
from examples.runner.plan import as_json
from tests.examples.helpers import (
    phase,
)


def test_rows_have_the_defaults_too():
    one = phase("z", "classp", learning_rate=0.1)
    other = phase("z", "classp", learning_rate=0.1, threshold=0.0, power=1.0, eps=1e-5)
    assert as_json((one,)) == as_json((other,))
    assert as_json((one,)) != as_json((phase("z", "classp", eps=1e-6),))


def test_what_a_phase_leaves_at_its_defaults_is_in_no_row():
    """So that rows and checkpoints of before stay those of their methods."""
    replay, ewc = Replay(share=0.1, in_batch=2), EWC(strength=1.0)
    (content,) = as_json((phase("b", plugins=(ewc, replay)),))
    assert content == {
        "epochs": {"b": 2},
        "optimizer": "sgd",
        "hyperparameters": {
            "learning_rate": 0.1,
            "momentum": None,
            "nesterov": False,
            "accumulator_dtype": None,
        },
        "ewc": {
            "strength": 1.0,
            "fisher": "examples",
            "examples": 4000,
            "implicit": True,
        },
        "replay": {"share": 0.1, "in_batch": 2},
    }
