"""A runner: rows, seeds side by side, what several methods begin with."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples.methods.classp import collecting_all
from examples.runner import rows, side_by_side, trainers
from examples.runner.plan import Method, as_json
from examples.runner.run import Runner
from tests.examples.helpers import (
    CLASSP,
    COLLECT,
    SGD,
    final_state,
    phase,
    read,
    without_times,
)


@pytest.mark.usefixtures("density_is_measured")
def test_a_row_a_seed_and_none_twice(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    runner.run("classp", CLASSP, range(2))
    found = read(tmp_path)
    assert [row["seed"] for row in found] == [0, 1]
    for row in found:
        assert row["phases"] == as_json(CLASSP.phases)
        first, last = row["results"]
        assert set(first["accuracy"]) == {"z"}  # The tasks seen so far.
        assert set(last["accuracy"]) == {"z", "b"}
        assert set(last["accuracy"]["z"]) == {"train", "test"}
        assert last["curve"]["step"] == [0, 6, 12]
        assert last["epochs"] == 2
        assert last["last_loss"] > 0
        assert last["bytes_per_weight"] == pytest.approx(4, abs=0.2)
        assert 0 < last["update_density"] <= 1
        assert last["finite"]
        assert last["versions"]["jax"] == jax.__version__
    # Another runner, as after a stop, goes on where the first ended.
    Runner(experiment, tmp_path).run("classp", CLASSP, range(3))
    assert [row["seed"] for row in read(tmp_path)] == [0, 1, 2]


def test_a_changed_hyperparameter_makes_a_new_row(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    runner.run("sgd", SGD, [0])
    slower = Method("SGD", (COLLECT, phase("b", learning_rate=0.05)))
    runner.run("sgd", slower, [0])
    found = read(tmp_path)
    assert len(found) == 2
    settings = experiment.settings
    assert [len(rows.select(found, m, settings)) for m in (SGD, slower)] == [1, 1]
    larger = experiment._replace(batch_size=4)
    assert not rows.select(found, SGD, larger.settings)
    # The rows of SGD were measured on the test split alone.
    assert not rows.select(found, SGD._replace(splits=("train",)), settings)


def test_what_methods_begin_with_is_trained_once(experiment, tmp_path, monkeypatch):
    steps = []
    original = side_by_side.train_steps

    def count(trainer, states, data, batches, of_block):
        steps.append(of_block)
        return original(trainer, states, data, batches, of_block)

    monkeypatch.setattr(side_by_side, "train_steps", count)
    Runner(experiment, tmp_path).run("classp", CLASSP, [0])
    assert sum(steps) == 2 * 5 + 2 * 6
    Runner(experiment, tmp_path).run("sgd", SGD, [0])
    assert sum(steps) == 2 * 5 + 2 * 2 * 6
    # What a checkpoint gave back is what training gave.
    Runner(experiment, tmp_path / "anew").run("sgd", SGD, [0])
    from_checkpoint = read(tmp_path)[1]
    assert without_times(from_checkpoint) == without_times(read(tmp_path / "anew")[0])


def test_what_many_methods_compiled_is_evicted(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(trainers, "MOST", 2)
    runner = Runner(experiment, tmp_path)
    programs = []
    for rate in (0.1, 0.2, 0.3, 0.4):
        method = Method("SGD", (phase("z", learning_rate=rate, epochs=1),))
        runner.run("sgd", method, [0])
        gc.collect()
        programs.append(len(jax.devices()[0].client.live_executables()))
    assert programs[2] < min(programs[0], programs[1], programs[3])
    assert len(rows.read(tmp_path / "rows.jsonl")) == 4


@pytest.mark.usefixtures("density_is_measured")
def test_seeds_side_by_side_are_those_one_after_another(experiment, tmp_path):
    Runner(experiment, tmp_path / "one").run("classp", CLASSP, range(3))
    Runner(experiment, tmp_path / "all", vmap_seeds=3).run("classp", CLASSP, range(3))
    for one, side in zip(read(tmp_path / "one"), read(tmp_path / "all"), strict=True):
        assert one["seed"] == side["seed"]
        for a, b in zip(one["results"], side["results"], strict=True):
            density = pytest.approx(b["update_density"], abs=0.03)
            assert a["update_density"] == density
            for task, accuracy in a["accuracy"].items():
                # Of 16 examples one may lie on the fence.
                for split_, shares in accuracy.items():
                    np.testing.assert_allclose(
                        shares, b["accuracy"][task][split_], atol=0.07
                    )
    one, all_ = (Runner(experiment, tmp_path / name) for name in ("one", "all"))
    for seed in range(3):
        states = [final_state(r, CLASSP.phases, seed) for r in (one, all_)]
        for a, b in zip(*(jax.tree.leaves(s.params) for s in states), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_bfloat16_weights_with_a_float32_sum(experiment, tmp_path):
    in_bfloat16 = experiment._replace(dtype="bfloat16")
    Runner(in_bfloat16, tmp_path).run("classp", CLASSP, [0])
    # Again from the checkpoint.
    state = final_state(Runner(in_bfloat16, tmp_path), CLASSP.phases)
    grad_sum = optax.tree.get(state.opt_state, "grad_sum")
    assert {p.dtype for p in jax.tree.leaves(state.params)} == {jnp.dtype("bfloat16")}
    assert {s.dtype for s in jax.tree.leaves(grad_sum)} == {jnp.dtype("float32")}
    Runner(experiment, tmp_path).run("classp", CLASSP, [0])
    rough, exact = read(tmp_path)
    assert rough["settings"].pop("dtype") == "bfloat16"
    assert rough["settings"] == exact["settings"]
    assert rough["results"][-1]["bytes_per_weight"] == pytest.approx(4, abs=0.2)
    assert rough["results"][-1]["last_loss"] == pytest.approx(
        exact["results"][-1]["last_loss"], rel=0.05
    )


def test_the_sum_goes_on_across_the_boundary(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    before = final_state(runner, (COLLECT,))
    collected = optax.tree.get(before.opt_state, "grad_sum")
    # Nothing passes an infinite threshold, nor is added to the sum.
    for optimizer in ("classp", "classp_equation1", collecting_all):
        stopped = phase("b", optimizer, threshold=1e30)
        after = final_state(runner, (COLLECT, stopped))
        assert int(after.step) == 10 + 12
        for p, q in zip(
            jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True
        ):
            np.testing.assert_array_equal(p, q)
        grad_sum = optax.tree.get(after.opt_state, "grad_sum")
        pairs = zip(jax.tree.leaves(collected), jax.tree.leaves(grad_sum), strict=True)
        grows = any(np.any(s != t) for s, t in pairs)
        assert grows == (optimizer != "classp")


def test_adam_keeps_its_moments(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    adam = phase("z", "adam"), phase("b", "adam")
    assert optax.tree.get(final_state(runner, adam).opt_state, "count") == 22
