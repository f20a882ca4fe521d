import dataclasses
import gc
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from classp_jax import consolidate, fisher_diagonal, set_penalty
from examples import continual, rows
from examples.continual import Runner
from examples.methods import (
    EWC,
    Method,
    Phase,
    Replay,
    SynapticIntelligence,
    as_json,
)
from examples.runner.data import Experiment, Task
from examples.training import Trainer
from tests.examples.helpers import random_split
from tests.helpers import Network


def preprocess(inputs):
    return inputs / 255 - 0.5


@pytest.fixture
def experiment():
    tasks = {
        "z": Task(random_split(40, 0), random_split(20, 1)),
        "b": Task(random_split(48, 2), random_split(16, 3)),
    }
    return Experiment("tiny", Network, preprocess, tasks, 8)


def phase(task, optimizer="sgd", learning_rate=0.1, epochs=2, **kwargs):
    ewc, replay = kwargs.pop("ewc", None), kwargs.pop("replay", None)
    hyperparameters = dict(learning_rate=learning_rate, **kwargs)
    return Phase({task: epochs}, optimizer, hyperparameters, ewc, replay)


COLLECT = phase("z", "classp", apply_decay=False)
CLASSP = Method("CLASSP", (COLLECT, phase("b", "classp")), ("train", "test"))
SGD = Method("SGD", (COLLECT, phase("b")))


def final_state(runner, phases, seed=0):
    (outcome,) = runner._train("", phases, [seed], ())
    return outcome.state


def without_times(row):
    row = json.loads(json.dumps(row))
    for result in row["results"]:
        del result["seconds"]
    return row


def read(folder):
    return rows.read(folder / "rows.jsonl")


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
    original = continual._train_steps

    def count(trainer, states, data, batches, of_block):
        steps.append(of_block)
        return original(trainer, states, data, batches, of_block)

    monkeypatch.setattr(continual, "_train_steps", count)
    Runner(experiment, tmp_path).run("classp", CLASSP, [0])
    assert sum(steps) == 2 * 5 + 2 * 6
    Runner(experiment, tmp_path).run("sgd", SGD, [0])
    assert sum(steps) == 2 * 5 + 2 * 2 * 6
    # What a checkpoint gave back is what training gave.
    Runner(experiment, tmp_path / "anew").run("sgd", SGD, [0])
    from_checkpoint = read(tmp_path)[1]
    assert without_times(from_checkpoint) == without_times(read(tmp_path / "anew")[0])


def test_what_many_methods_compiled_is_let_go(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(continual, "_MOST_TRAINERS", 2)
    runner = Runner(experiment, tmp_path)
    programs = []
    for rate in (0.1, 0.2, 0.3, 0.4):
        method = Method("SGD", (phase("z", learning_rate=rate, epochs=1),))
        runner.run("sgd", method, [0])
        gc.collect()
        programs.append(len(jax.devices()[0].client.live_executables()))
    assert programs[2] < min(programs[0], programs[1], programs[3])
    assert len(rows.read(tmp_path / "rows.jsonl")) == 4


def test_seeds_side_by_side_are_those_one_after_another(experiment, tmp_path):
    Runner(experiment, tmp_path / "one").run("classp", CLASSP, range(3))
    Runner(experiment, tmp_path / "all", vmap_seeds=3).run("classp", CLASSP, range(3))
    for one, side in zip(read(tmp_path / "one"), read(tmp_path / "all"), strict=True):
        assert one["seed"] == side["seed"]
        for a, b in zip(one["results"], side["results"], strict=True):
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


def test_rows_have_the_defaults_too():
    one = phase("z", "classp", learning_rate=0.1)
    other = phase("z", "classp", learning_rate=0.1, threshold=0.0, power=1.0, eps=1e-5)
    assert as_json((one,)) == as_json((other,))
    assert as_json((one,)) != as_json((phase("z", "classp", eps=1e-6),))


def batches_of(runner, phase, number, seed):
    """All of a phase's batches, the epochs one behind the other."""
    epochs = runner._batches(phase, number, seed)
    return np.concatenate([block for epoch in epochs for block in epoch])


def test_batches(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    a, b = phase("z"), phase("b")
    first = batches_of(runner, a, 0, seed=0)
    assert first.shape == (10, 8)
    for epoch in first.reshape(2, 40):
        assert sorted(epoch) == list(range(40))
    second = batches_of(runner, b, 1, seed=0)
    assert sorted(second[:6].ravel()) == list(range(40, 88))
    # The same for all methods, other ones for another seed.
    adam = batches_of(runner, phase("b", "adam"), 1, 0)
    np.testing.assert_array_equal(second, adam)
    assert np.any(second != batches_of(runner, b, 1, seed=1))

    both = Phase({"z": 2, "b": 1}, "sgd", dict(learning_rate=0.1))
    mixed = batches_of(runner, both, 0, seed=0)
    assert sorted(mixed.ravel()) == sorted([*range(40), *range(40), *range(40, 88)])
    assert 0 < np.mean(mixed[0] < 40) < 1
    as_often = dataclasses.replace(both, epochs={"z": 2, "b": 2})
    mixed = batches_of(runner, as_often, 0, seed=0)
    for epoch in mixed.reshape(2, 88):
        assert sorted(epoch) == list(range(88))
        assert 0 < np.mean(epoch[:8] < 40) < 1

    replay = phase("b", epochs=1, replay=Replay(share=0.1, in_batch=2))
    replayed = batches_of(runner, replay, 1, seed=0)
    assert replayed.shape == (8, 8)
    assert sorted(replayed[:, :6].ravel()) == list(range(40, 88))
    assert len(np.unique(replayed[:, 6:])) == 4
    assert replayed[:, 6:].max() < 40


def test_what_is_left_of_an_epoch_is_a_batch_too(experiment, tmp_path):
    runner = Runner(experiment._replace(batch_size=15), tmp_path)
    for epoch in runner._batches(phase("z"), 0, seed=0):
        (block,) = epoch
        assert block.shape == (3, 15)
        assert sorted(block.ravel()) == [-1] * 5 + list(range(40))
    assert int(final_state(runner, (phase("z"),)).step) == 6


def test_a_batch_with_none_in_it_is_a_smaller_one(experiment):
    trainer = Trainer(experiment.make_model, optax.sgd(0.1), experiment.preprocess)
    data = experiment.tasks["z"].train
    batch = np.arange(10)

    def step(batch):
        state, loss = trainer.train_step(trainer.init(0), *data, batch)
        return state.params, loss

    few = step(batch)
    padded = np.pad(batch, (0, 5), constant_values=-1)
    chex.assert_trees_all_close(step(padded), few, rtol=1e-5, atol=1e-7)
    whole = step(np.arange(15))
    assert abs(float(whole[1] - few[1])) > 1e-3


def test_phases_of_any_length_have_one_program(experiment, tmp_path):
    runner = Runner(experiment._replace(batch_size=9), tmp_path)
    before = continual._train_steps._cache_size()
    for task, steps in (("z", 5), ("b", 6)):
        assert int(final_state(runner, (phase(task, epochs=1),)).step) == steps
    assert continual._train_steps._cache_size() == before + 1


def test_an_epoch_of_several_blocks_is_the_same(experiment, tmp_path, monkeypatch):
    runner = Runner(experiment._replace(batch_size=9), tmp_path)
    whole = final_state(runner, (phase("b"),))
    monkeypatch.setattr(continual, "_LOOP", 4)
    for epoch in runner._batches(phase("b"), 0, seed=0):
        assert [block.shape for block in epoch] == [(4, 9), (2, 9)]
    in_blocks = final_state(runner, (phase("b"),))
    assert int(in_blocks.step) == int(whole.step) == 12
    chex.assert_trees_all_close(in_blocks.params, whole.params, rtol=1e-5, atol=1e-7)


def test_what_is_absent_from_a_batch_may_be_anything(experiment):
    trainer = Trainer(experiment.make_model, optax.sgd(0.1), lambda inputs: inputs)
    inputs = jnp.ones((3, *experiment.tasks["z"].train.inputs.shape[1:]))
    inputs = inputs.at[-1].set(jnp.nan)
    batch = np.array([0, 1, -1])
    state, loss = trainer.train_step(trainer.init(0), inputs, np.arange(3), batch)
    assert np.isfinite(loss)
    chex.assert_tree_all_finite(state.params)


def test_the_longer_a_phase_lasts_the_less_often_it_is_measured(
    experiment, tmp_path, monkeypatch
):
    monkeypatch.setattr(continual, "_LOOP", 3)  # Two calls an epoch.
    endless = dataclasses.replace(phase("z", epochs=80), stop_loss=0.0)
    Runner(experiment, tmp_path).run("", Method("", (endless,)), [0])
    (result,) = read(tmp_path)[0]["results"]
    # Every 30 steps, then as soon as an epoch of 5 is through after a tenth more.
    assert result["curve"]["step"] == [*range(0, 331, 30), 365, 400]


def test_a_phase_ends_at_its_stop_loss(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(continual, "_LOOP", 3)  # Two calls an epoch.
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


def test_a_task_may_have_no_test_split(experiment, tmp_path):
    tasks = dict(experiment.tasks, z=experiment.tasks["z"]._replace(test=None))
    experiment = experiment._replace(tasks=tasks, curve=("train", 20))
    Runner(experiment, tmp_path).run("classp", CLASSP, [0])
    (row,) = read(tmp_path)
    assert row["settings"]["examples"]["z"] == {"train": 40}
    accuracy = row["results"][-1]["accuracy"]
    assert set(accuracy["z"]) == {"train"}
    assert set(accuracy["b"]) == {"train", "test"}
    method = Method("", CLASSP.phases, ("test",))
    assert len(rows.select(read(tmp_path), method, experiment.settings)) == 1


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


def test_bytes_a_weight(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    weights = 6 * 8 + 8 + 8 * 3 + 3
    for last, expected in (
        (phase("b"), 0.0),
        (phase("b", ewc=EWC(strength=1.0)), 8.0),
        # Four examples of six bytes.
        (phase("b", replay=Replay(0.1, 2)), 4 * 6 / weights),
    ):
        runner.run("", Method("", (COLLECT, last)), [0])
        actual = read(tmp_path)[-1]["results"][-1]["bytes_per_weight"]
        assert actual == pytest.approx(expected, abs=4.1 / weights)


def test_the_sum_goes_on_across_the_boundary(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    before = final_state(runner, (COLLECT,))
    collected = optax.tree.get(before.opt_state, "grad_sum")
    # Nothing passes an infinite threshold, nor is added to the sum.
    for optimizer in ("classp", "classp_equation1", "collecting_all"):
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


def test_fisher_of_examples(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    anchor = final_state(runner, (COLLECT,)).params
    pinned = phase("b", ewc=EWC(strength=1e30, examples=40))
    state = final_state(runner, (COLLECT, pinned))
    data = experiment.tasks["z"].train
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    squares = jax.tree.map(jnp.zeros_like, anchor)
    for example, label in zip(data.inputs, data.labels, strict=True):
        grads = jax.grad(trainer.example_loss)(anchor, example, label)
        squares = jax.tree.map(lambda s, g: s + g**2 / 40, squares, grads)
    fisher = optax.tree.get(state.opt_state, "fisher")
    for s, f in zip(jax.tree.leaves(squares), jax.tree.leaves(fisher), strict=True):
        np.testing.assert_allclose(f, s, rtol=1e-4, atol=1e-9)
    # Weights that the first task depends on are held where it left them.
    for f, w, w_star in zip(
        *map(jax.tree.leaves, (fisher, state.params, anchor)), strict=True
    ):
        np.testing.assert_allclose(w[f > 0], w_star[f > 0], atol=1e-6)


def test_fisher_of_steps_is_the_mean_along_training(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    collect = phase("z", "classp", power=2, apply_decay=False)
    before = final_state(runner, (collect,))
    state = final_state(runner, (collect, phase("b", ewc=EWC(1.0, fisher="steps"))))
    grad_sum = optax.tree.get(before.opt_state, "grad_sum")
    mean = jax.tree.map(lambda s: s / 10, grad_sum)  # Of 2 epochs of 5 steps.
    for name, expected in (("fisher", mean), ("anchor", before.params)):
        actual = optax.tree.get(state.opt_state, name)
        chex.assert_trees_all_equal(actual, expected)


def test_an_explicit_penalty_counts_for_the_stop_loss(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    collect = phase("z", "classp", power=2, apply_decay=False)
    ewc = EWC(2.0, fisher="steps", implicit=False)
    last = phase("b", ewc=ewc, epochs=1)
    runner.run("", Method("", (collect, last)), [0])
    state = final_state(runner, (collect, last))
    fisher, anchor = (optax.tree.get(state.opt_state, k) for k in ("fisher", "anchor"))
    penalty = sum(
        float(np.sum(f * (w - w_star) ** 2))
        for f, w, w_star in zip(
            *map(jax.tree.leaves, (fisher, state.params, anchor)), strict=True
        )
    )
    assert penalty > 0
    # The same steps once more, for the loss before the last of them.
    before = final_state(runner, (collect,))
    trainer = runner._trainer(last)
    fresh = trainer.init(0).opt_state
    opt_state = set_penalty(fresh, fisher, anchor)
    batches = batches_of(runner, last, 1, 0)
    _, losses = trainer.train_steps(
        before._replace(opt_state=opt_state), *runner._data, batches
    )
    actual = read(tmp_path)[-1]["results"][-1]["last_loss"]
    assert actual == pytest.approx(float(losses[-1]) + penalty, rel=1e-4)


def test_fisher_of_batches_is_that_of_a_separate_network(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    ewc = EWC(strength=1.0, fisher="batches", implicit=False)
    state = final_state(runner, (phase("z"), phase("b", ewc=ewc)))
    seed = continual._SEPARATE
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    separate = trainer.init(seed)
    data = jax.device_put(experiment.tasks["z"].train)
    squares = jax.tree.map(jnp.zeros_like, separate.params)
    for batch in batches_of(runner, phase("z", epochs=1), 0, seed):
        old = separate.params
        separate, _ = trainer.train_step(separate, *data, batch)
        squares = jax.tree.map(
            lambda s, p, q: s + ((p - q) / 0.1) ** 2, squares, old, separate.params
        )
    fisher, anchor = (optax.tree.get(state.opt_state, k) for k in ("fisher", "anchor"))
    for s, f in zip(jax.tree.leaves(squares), jax.tree.leaves(fisher), strict=True):
        np.testing.assert_allclose(f, s / 40, rtol=1e-3, atol=1e-7)
    for p, q in zip(
        jax.tree.leaves(separate.params), jax.tree.leaves(anchor), strict=True
    ):
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6)


@pytest.fixture
def three_tasks(experiment):
    tasks = experiment.tasks | {"c": Task(random_split(40, 4), random_split(16, 5))}
    return experiment._replace(tasks=tasks, unseen=True, splits=("test",))


def three_phases(first=None, **then):
    return phase("z", **(first or {})), phase("b", **then), phase("c", **then)


def penalties_of(state):
    return [optax.tree.get(state.opt_state, key) for key in ("fisher", "anchor")]


def test_penalties_of_several_tasks_are_one(three_tasks, tmp_path):
    runner = Runner(three_tasks, tmp_path)
    phases = three_phases(ewc=EWC(3.0, examples=40))
    second, third = (final_state(runner, phases[:n]) for n in (2, 3))
    fisher_a, anchor_a = penalties_of(second)
    fisher, anchor = penalties_of(third)
    # What the second task alone adds, from its own Fisher at the weights it led to.
    data, anchor_b = three_tasks.tasks["b"].train, second.params
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    which = np.random.default_rng([0, continual._SEPARATE]).choice(48, 40, False)
    fisher_b = fisher_diagonal(
        trainer.example_loss, anchor_b, data.inputs[which], data.labels[which]
    )
    of_z = three_tasks.tasks["z"].train
    first = final_state(runner, phases[:1]).params
    chex.assert_trees_all_close(anchor_a, first)
    chex.assert_trees_all_close(
        fisher_a, fisher_diagonal(trainer.example_loss, first, *of_z), rtol=1e-4
    )

    def distance(f, w_star):
        """The penalty at some weights, less that at others."""
        terms = jax.tree.map(
            lambda f, w, v, w_star: jnp.sum(
                f * ((w - w_star) ** 2 - (v - w_star) ** 2)
            ),
            f,
            third.params,
            trainer.init(7).params,
            w_star,
        )
        return float(sum(jax.tree.leaves(terms)))

    expected = distance(fisher_a, anchor_a) + distance(fisher_b, anchor_b)
    assert distance(fisher, anchor) == pytest.approx(expected, rel=1e-3)


def test_online_ewc_decays_its_fisher_and_draws_to_the_last_weights(
    three_tasks, tmp_path
):
    runner = Runner(three_tasks, tmp_path)
    separate, online = (
        three_phases(ewc=EWC(3.0, examples=40, decay=decay)) for decay in (None, 0.5)
    )
    # On the second task they are the same.
    second = [final_state(runner, phases[:2]) for phases in (separate, online)]
    chex.assert_trees_all_equal(second[0].params, second[1].params)
    (so_far, _), (both, _), (fisher, anchor) = map(
        penalties_of,
        (
            second[0],
            *(final_state(runner, phases) for phases in (separate, online)),
        ),
    )
    expected = jax.tree.map(lambda f, g: 0.5 * f + (g - f), so_far, both)
    chex.assert_trees_all_close(fisher, expected, rtol=1e-4, atol=1e-8)
    chex.assert_trees_all_equal(anchor, second[1].params)


def test_synaptic_intelligence_goes_on_across_boundaries(three_tasks, tmp_path):
    runner = Runner(three_tasks, tmp_path)
    phases = tuple(
        dataclasses.replace(p, si=SynapticIntelligence(strength=5.0, damping=0.2))
        for p in three_phases()
    )
    first, second, third = (final_state(runner, phases[:n]) for n in (1, 2, 3))
    plain = final_state(runner, three_phases()[:1])
    chex.assert_trees_all_close(first.params, plain.params, rtol=1e-6)
    for before, after in ((first, second), (second, third)):
        consolidated = consolidate(before.opt_state, before.params, damping=0.2)
        for key in ("fisher", "anchor"):
            chex.assert_trees_all_close(
                optax.tree.get(after.opt_state, key),
                optax.tree.get(consolidated, key),
                rtol=1e-6,
            )
    assert all(np.all(f >= 0) for f in jax.tree.leaves(penalties_of(third)[0]))


def test_a_memory_is_shared_by_all_earlier_tasks(three_tasks, tmp_path):
    runner = Runner(three_tasks, tmp_path)
    replay = Replay(None, in_batch=4, memory=12)
    of_z, of_b, of_c = range(40), range(40, 88), range(88, 128)
    kept = []
    for number, (task, new) in enumerate((("b", of_b), ("c", of_c)), start=1):
        batches = batches_of(runner, phase(task, replay=replay), number, seed=0)
        assert set(batches[:, :4].ravel()) == set(new)
        kept.append(set(batches[:, 4:].ravel().tolist()))
    assert len(kept[0]) == len(kept[1]) == 12
    assert kept[0] <= set(of_z)
    # Of the first task none that hadn't been kept before.
    assert len(kept[1] & set(of_b)) == 6 and len(kept[1] & kept[0]) == 6
    method = Method("", (phase("z"), phase("b", replay=replay)))
    runner.run("replay", method, [0])
    weights = 6 * 8 + 8 + 8 * 3 + 3
    actual = read(tmp_path)[0]["results"][-1]["bytes_per_weight"]
    assert actual == pytest.approx(12 * 6 / weights)
    with pytest.raises(ValueError, match="none before it"):
        runner._batches(phase("z", replay=replay), 0, 0)


def test_tasks_still_to_come_and_no_training_are_measured(three_tasks, tmp_path):
    Runner(three_tasks, tmp_path).run("sgd", Method("", three_phases()), [0])
    (row,) = read(tmp_path)
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    for i, result in enumerate(row["results"]):
        assert {k: set(v) for k, v in result["accuracy"].items()} == {
            task: {"test"} for task in three_tasks.tasks
        }
        assert ("untrained" in result) == (i == 0)
    for name, task in three_tasks.tasks.items():
        expected = trainer.accuracy(trainer.init(0).params, *task.test).dropout_off
        actual = row["results"][0]["untrained"][name]["test"][0]
        assert actual == pytest.approx(float(expected), abs=1e-6)


def test_heads_part_the_classes():
    """A class of another head is neither trained nor named."""
    inputs, labels = map(jnp.asarray, random_split(30, 0))
    trainer = Trainer(Network, optax.sgd(0.1), preprocess, heads=(0, 1, 0))
    params = trainer.init(0).params
    logits = nnx.merge(trainer._graphdef, params)(preprocess(inputs))
    of_two = jnp.array([0, 2])[jnp.argmax(logits[:, ::2], -1)]
    right = jnp.where(labels == 1, True, of_two == labels)
    assert trainer.accuracy(params, inputs, labels).dropout_off == jnp.mean(right)
    for head, member, others in ((0, 2, [1]), (1, 1, [0, 2])):
        label = jnp.array(member)
        grads = jax.grad(trainer.example_loss)(params, inputs[0], label)
        bias = grads["out"]["bias"][...]
        assert not np.any(bias[np.array(others)]), head
        expected = jax.nn.log_softmax(logits[0, ::2])[1] if head == 0 else 0.0
        loss = trainer.example_loss(params, inputs[0], label)
        assert loss == pytest.approx(-float(expected), abs=1e-6)


def test_what_a_phase_leaves_at_its_defaults_is_in_no_row():
    """So that rows and checkpoints of before stay those of their methods."""
    replay, ewc = Replay(share=0.1, in_batch=2), EWC(strength=1.0)
    (content,) = as_json((phase("b", ewc=ewc, replay=replay),))
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


def test_accuracy_of_any_number_of_examples():
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    params = trainer.init(0).params
    for n in (3, 50, 120):
        inputs, labels = map(jnp.asarray, random_split(n, n))
        logits = nnx.merge(trainer._graphdef, params)(preprocess(inputs))
        expected = jnp.mean(jnp.argmax(logits, -1) == labels)
        off, on = trainer.accuracy(params, inputs, labels, jax.random.key(0))
        assert off == pytest.approx(float(expected))
        assert 0 <= on <= 1
        assert trainer.accuracy(params, inputs, labels).dropout_on is None
