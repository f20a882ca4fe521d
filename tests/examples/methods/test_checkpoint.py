"""Gradient sums for what Adam has trained."""

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import classp_jax
from classp_jax import interop
from examples.datasets import digits
from examples.methods.checkpoint import SOURCES, Sums
from examples.methods.ewc import EWC
from examples.runner.carry_over import states_of
from examples.runner.data import Split
from examples.runner.plan import Method
from examples.runner.plugin import Plugin
from examples.runner.run import Runner
from tests.examples.helpers import final_state, penalties_of, phase, random_split

ADAM = phase("z", "adam", learning_rate=0.01)


@dataclasses.dataclass(frozen=True)
class Kept(Plugin):
    """Keeps what a plugin sees at a boundary."""

    key: ClassVar[str] = "kept"
    boundaries: ClassVar[list] = []

    def at_boundary(self, context, state):
        """Keeps it."""
        self.boundaries.append((context, state))
        return state


@pytest.fixture
def boundary(experiment, tmp_path):
    """What a plugin of a phase of CLASSP's sees behind one of Adam's."""
    then = phase("b", "classp", plugins=(Kept(),))
    with pytest.warns(UserWarning, match="the one before collected none"):
        final_state(Runner(experiment, tmp_path), (ADAM, then))
    return Kept.boundaries.pop()


def grad_sum_of(plugin, boundary):
    return optax.tree.get(plugin.at_boundary(*boundary).opt_state, "grad_sum")


def test_sums_of_adams_moment_are_the_librarys_estimate(boundary):
    context, state = boundary
    actual = grad_sum_of(Sums("moment"), boundary)
    expected = interop.estimate_grad_sum(context.before.opt_state, state.params)
    chex.assert_trees_all_close(jax.tree.leaves(actual), jax.tree.leaves(expected))
    assert not any(map(jnp.any, jax.tree.leaves(optax.tree.get(state, "grad_sum"))))


@pytest.mark.parametrize(("batch_size", "gradients"), [(None, 1), (8, 4), (1, 36)])
def test_sums_of_a_pass_are_those_of_its_batches_as_often_as_it_is_made(
    batch_size, gradients, boundary, experiment
):
    context, state = boundary
    inputs, labels = experiment.tasks["z"].train
    order = np.random.default_rng([0, 2000]).choice(40, 36, replace=False)
    size = batch_size or 32

    def loss(params, batch):
        losses = [
            context.trainer.example_loss(params, jnp.asarray(inputs[i]), labels[i])
            for i in batch
        ]
        return sum(losses) / size

    of_batches = [
        jax.grad(loss)(state.params, order[n * size : (n + 1) * size])
        for n in range(gradients)
    ]
    expected = jax.tree.map(lambda *gs: 5 * sum(map(jnp.abs, gs)), *of_batches)
    plugin = Sums("data", examples=36, passes=5, batch_size=batch_size)
    actual = grad_sum_of(plugin, boundary)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("refresh_every", [None, 7])
def test_directions_that_are_not_refreshed_are_slowed_by_the_whole_pass(
    refresh_every, experiment, tmp_path
):
    make = classp_jax.classp_gram
    then = phase("b", make, plugins=(Kept(),), refresh_every=refresh_every)
    final_state(Runner(experiment, tmp_path), (ADAM, then))
    context, state = Kept.boundaries.pop()
    plugin = Sums("data", examples=36, batch_size=4)
    opt_state = plugin.at_boundary(context, state).opt_state
    of_all = classp_jax.scale_by_accumulated_gram(refresh_every=1)
    (gram_state,) = states_of(opt_state, classp_jax.ScaleByAccumulatedGramState)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    _, refreshed = of_all.update(zeros, gram_state, refresh=True)
    behind = [
        float(jnp.abs(x - y).max())
        for x, y in zip(
            jax.tree.leaves(gram_state.scaling),
            jax.tree.leaves(refreshed.scaling),
            strict=True,
        )
    ]
    assert (max(behind) < 1e-5) == (refresh_every is None)


@pytest.mark.parametrize("source", ["data", "unlabelled", "noise"])
def test_only_data_with_labels_read_the_labels_and_noise_reads_nothing(
    source, boundary
):
    context, state = boundary
    plugin = Sums(source, examples=32)
    of_data = grad_sum_of(plugin, boundary)
    inputs, labels = context.data
    other_labels = Split(inputs, (labels + 1) % 3)
    others = random_split(len(labels), 7)
    for reads, data in (
        (source == "data", other_labels),
        (source != "noise", Split(jnp.asarray(others.inputs), labels)),
    ):
        changed = grad_sum_of(plugin, (context._replace(data=data), state))
        if reads:
            with pytest.raises(AssertionError):
                chex.assert_trees_all_close(changed, of_data, rtol=1e-2)
        else:
            chex.assert_trees_all_equal(changed, of_data)


def test_other_digits_lie_as_mnists_do():
    images, labels = digits.load_other(1797)
    mnist = digits.load().train.inputs / 255
    assert images.shape == (1797, 28, 28, 1) and images.dtype == np.uint8
    assert set(labels) == set(range(10))
    border = np.ones((28, 28), bool)
    border[4:-4, 4:-4] = False
    assert not images[:, border].any() and images[:, 4:-4, 4:-4].any(axis=(1, 2)).all()
    # As bright, in the mean, in the middle and at the border, to a tenth.
    for where in (border, ~border):
        assert abs(images[:, where].mean() / 255 - mnist[:, where].mean()) < 0.1


def test_ewc_takes_adams_moment_for_the_mean_square(experiment, tmp_path):
    runner = Runner(experiment, tmp_path)
    before = final_state(runner, (ADAM,))
    state = final_state(
        runner, (ADAM, phase("b", plugins=(EWC(1.0, fisher="moment"),)))
    )
    (adam,) = states_of(before.opt_state, optax.ScaleByAdamState)
    fisher, anchor = penalties_of(state)
    mean = jax.tree.map(lambda v: v / (1 - 0.999**10), adam.nu)
    chex.assert_trees_all_close(fisher, mean, rtol=1e-4)
    chex.assert_trees_all_equal(anchor, before.params)


def test_ewc_sums_up_moments_of_several_phases(three_tasks, tmp_path):
    penalty = EWC(1.0, fisher="moment", implicit=False)
    phases = ADAM, *(phase(t, "adam", 0.01, plugins=(penalty,)) for t in "bc")
    runner = Runner(three_tasks, tmp_path)
    second, third = (final_state(runner, phases[:count]) for count in (2, 3))
    of_second = interop.estimate_grad_sum(
        second.opt_state, second.params, power=2, steps=1
    )
    (before, _), (fisher, _) = penalties_of(second), penalties_of(third)
    chex.assert_trees_all_close(
        fisher, jax.tree.map(jnp.add, before, of_second), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Sums("thin air"), "sums' source must be 'moment', 'data'"),
        (Sums("data", examples=0), "sums' examples"),
        (Sums("data", passes=0), "sums' passes"),
        (Sums("data", batch_size=0), "sums' batch_size"),
    ],
)
def test_what_cannot_be_summed_is_refused(plugin, message, experiment, tmp_path):
    phases = ADAM, phase("b", "classp", plugins=(plugin,))
    with pytest.raises(ValueError, match=message):
        Runner(experiment, tmp_path).run("", Method("", phases), [0])
    with pytest.raises(ValueError, match="of a phase before, got the first"):
        first = phase("z", "classp", plugins=(Sums(SOURCES[0]),))
        Runner(experiment, tmp_path).run("", Method("", (first,)), [0])
