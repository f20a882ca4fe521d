"""Which examples a phase trains on."""

import dataclasses

import numpy as np

from examples.methods.replay import Replay
from examples.runner import batches
from examples.runner.plan import Phase
from examples.runner.run import Runner
from tests.examples.helpers import (
    batches_of,
    final_state,
    phase,
)


def test_batches(experiment):
    a, b = phase("z"), phase("b")
    first = batches_of(experiment, a, 0, seed=0)
    assert first.shape == (10, 8)
    for epoch in first.reshape(2, 40):
        assert sorted(epoch) == list(range(40))
    second = batches_of(experiment, b, 1, seed=0)
    assert sorted(second[:6].ravel()) == list(range(40, 88))
    # The same for all methods, other ones for another seed.
    adam = batches_of(experiment, phase("b", "adam"), 1, 0)
    np.testing.assert_array_equal(second, adam)
    assert np.any(second != batches_of(experiment, b, 1, seed=1))

    both = Phase({"z": 2, "b": 1}, "sgd", dict(learning_rate=0.1))
    mixed = batches_of(experiment, both, 0, seed=0)
    assert sorted(mixed.ravel()) == sorted([*range(40), *range(40), *range(40, 88)])
    assert 0 < np.mean(mixed[0] < 40) < 1
    as_often = dataclasses.replace(both, epochs={"z": 2, "b": 2})
    mixed = batches_of(experiment, as_often, 0, seed=0)
    for epoch in mixed.reshape(2, 88):
        assert sorted(epoch) == list(range(88))
        assert 0 < np.mean(epoch[:8] < 40) < 1

    replay = phase("b", epochs=1, plugins=(Replay(share=0.1, in_batch=2),))
    replayed = batches_of(experiment, replay, 1, seed=0)
    assert replayed.shape == (8, 8)
    assert sorted(replayed[:, :6].ravel()) == list(range(40, 88))
    assert len(np.unique(replayed[:, 6:])) == 4
    assert replayed[:, 6:].max() < 40


def test_what_is_left_of_an_epoch_is_a_batch_too(experiment, tmp_path):
    runner = Runner(experiment._replace(batch_size=15), tmp_path)
    tasks = batches.of_tasks({"z": 40})
    for epoch in batches.of_phase(phase("z"), 0, 0, tasks, 15):
        (block,) = epoch
        assert block.shape == (3, 15)
        assert sorted(block.ravel()) == [-1] * 5 + list(range(40))
    assert int(final_state(runner, (phase("z"),)).step) == 6
