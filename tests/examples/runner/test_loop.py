"""The training loop: blocks, measurements and where a phase ends."""

import dataclasses

import chex
import numpy as np
import pytest

from examples.runner import batches, side_by_side
from examples.runner.plan import Method
from examples.runner.run import Runner
from tests.examples.helpers import (
    final_state,
    phase,
    read,
)


@pytest.mark.usefixtures("few_compiled_functions")
def test_phases_of_any_length_have_one_program(experiment, tmp_path):
    runner = Runner(experiment._replace(batch_size=9), tmp_path)
    before = side_by_side.train_steps._cache_size()
    for task, steps in (("z", 5), ("b", 6)):
        assert int(final_state(runner, (phase(task, epochs=1),)).step) == steps
    assert side_by_side.train_steps._cache_size() == before + 1


def test_an_epoch_of_several_blocks_is_the_same(experiment, tmp_path, monkeypatch):
    runner = Runner(experiment._replace(batch_size=9), tmp_path)
    whole = final_state(runner, (phase("b"),))
    monkeypatch.setattr(batches, "BLOCK", 4)
    for epoch in batches.of_phase(
        phase("b"), 0, 0, batches.of_tasks({"z": 40, "b": 48}), 9
    ):
        assert [block.shape for block in epoch] == [(4, 9), (2, 9)]
    in_blocks = final_state(runner, (phase("b"),))
    assert int(in_blocks.step) == int(whole.step) == 12
    chex.assert_trees_all_close(in_blocks.params, whole.params, rtol=1e-5, atol=1e-7)


def test_the_longer_a_phase_lasts_the_less_often_it_is_measured(
    experiment, tmp_path, monkeypatch
):
    monkeypatch.setattr(batches, "BLOCK", 3)  # Two calls an epoch.
    endless = dataclasses.replace(phase("z", epochs=80), stop_loss=0.0)
    Runner(experiment, tmp_path).run("", Method("", (endless,)), [0])
    (result,) = read(tmp_path)[0]["results"]
    # Every 30 steps, then as soon as an epoch of 5 is through after a tenth more.
    assert result["curve"]["step"] == [*range(0, 331, 30), 365, 400]


def test_a_phase_ends_at_its_stop_loss(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK", 3)  # Two calls an epoch.
    longest = phase("z", learning_rate=0.3, epochs=80)
    runner = Runner(experiment, tmp_path)
    runner.run("", Method("", (longest,)), [0])
    (capped,) = read(tmp_path)[0]["results"]
    assert (capped["epochs"], capped["curve"]["step"][-1]) == (80, 400)
    stop_loss = 1.0
    assert capped["last_loss"] < stop_loss
    stopping = dataclasses.replace(longest, stop_loss=stop_loss)
    for name, vmap_seeds in (("one", 1), ("all", 3)):
        runner = Runner(experiment, tmp_path / name, vmap_seeds=vmap_seeds)
        runner.run("", Method("", (stopping,)), range(3))
    for one, side in zip(read(tmp_path / "one"), read(tmp_path / "all"), strict=True):
        (result,), (other,) = one["results"], side["results"]
        # Each seed in its own time, side by side as well.
        assert result["epochs"] == other["epochs"]
        assert result["curve"]["step"][-1] == 5 * result["epochs"]
        assert result["last_loss"] <= stop_loss
        assert result["last_loss"] == pytest.approx(other["last_loss"], rel=1e-3)
        # And with the weights of that time: of 40 examples a few lie on the fence.
        for split_, shares in result["accuracy"]["z"].items():
            np.testing.assert_allclose(shares, other["accuracy"]["z"][split_], atol=0.1)
        # One epoch less, and the loss would still be above.
        shorter = dataclasses.replace(longest, epochs={"z": result["epochs"] - 1})
        folder = tmp_path / f"{one['seed']}"
        Runner(experiment, folder).run("", Method("", (shorter,)), [one["seed"]])
        assert read(folder)[0]["results"][0]["last_loss"] > stop_loss
    assert len({row["results"][0]["epochs"] for row in read(tmp_path / "one")}) > 1


def test_a_phase_ends_where_its_loss_is_no_number(experiment, tmp_path):
    diverging = phase("z", learning_rate=1e38, epochs=50)
    diverging = dataclasses.replace(diverging, stop_loss=1e-3)
    Runner(experiment, tmp_path).run("", Method("", (diverging,)), [0])
    (result,) = read(tmp_path)[0]["results"]
    assert result["epochs"] < 50 and not result["finite"]
