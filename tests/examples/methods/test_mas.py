"""Memory Aware Synapses at the boundaries."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from classp_jax.baselines import mas_importance
from examples.methods.ewc import EWC
from examples.methods.mas import MAS, importance_of_examples
from examples.methods.quadratic_penalty import SEPARATE
from examples.runner.data import Split
from examples.runner.evaluation import Classifier
from examples.runner.plan import Method
from examples.runner.run import Runner
from examples.runner.trainer import Trainer
from tests.examples.helpers import (
    final_state,
    penalties_of,
    phase,
    preprocess,
    three_phases,
)
from tests.helpers import Network


def test_importances_of_tasks_add_up_and_the_anchor_is_that_of_the_last(
    three_tasks, tmp_path
):
    runner = Runner(three_tasks, tmp_path)
    phases = three_phases(plugins=(MAS(3.0, examples=40),))
    first, second, third = (final_state(runner, phases[:n]) for n in (1, 2, 3))
    classifier = Trainer(Network, optax.sgd(0.1), preprocess).classifier

    def output(params, example):
        return classifier.logits(params, example[None], None)

    which = np.random.default_rng([0, SEPARATE]).choice(48, 40, False)
    inputs = (
        three_tasks.tasks["z"].train.inputs,
        three_tasks.tasks["b"].train.inputs[which],
    )
    of_z, of_b = (
        mas_importance(output, state.params, x)
        for state, x in zip((first, second), inputs, strict=True)
    )
    importance, anchor = penalties_of(second)
    chex.assert_trees_all_close(importance, of_z, rtol=1e-4, atol=1e-7)
    chex.assert_trees_all_equal(anchor, first.params)
    importance, anchor = penalties_of(third)
    both = jax.tree.map(jnp.add, of_z, of_b)
    chex.assert_trees_all_close(importance, both, rtol=1e-4, atol=1e-7)
    chex.assert_trees_all_equal(anchor, second.params)


def test_labels_make_no_difference_unless_they_say_which_head():
    trainer = Trainer(Network, optax.sgd(0.1), preprocess)
    params = trainer.init(0).params
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (6, 6)).astype(np.uint8)
    first, last = (Split(inputs, np.full(6, label, np.int32)) for label in (0, 2))

    def importance(classifier, examples):
        return importance_of_examples(classifier, params, examples, 4)

    shared = trainer.classifier
    chex.assert_trees_all_equal(importance(shared, first), importance(shared, last))
    heads = Classifier(shared.graphdef, shared.preprocess, (0, 0, 1))
    of_first, of_last = (importance(heads, x) for x in (first, last))
    for of_head, own in ((of_first, [0, 1]), (of_last, [2])):
        bias, expected = (
            np.asarray(x["out"]["bias"][...])
            for x in (of_head, importance(shared, first))
        )
        np.testing.assert_allclose(bias[own], expected[own], rtol=1e-6)
        assert np.all(np.delete(bias, own) == 0)
    # Below the heads the two squared norms have gradients of their own.
    kernels = [x["hidden"]["kernel"][...] for x in (of_first, of_last)]
    assert np.all(np.isfinite(kernels)) and not np.allclose(*kernels)


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        ((EWC(1.0), MAS(1.0)), "mas can't go on from ewc.*no sensitivities"),
        ((MAS(1.0), EWC(1.0)), "ewc can't go on from mas.*no Fisher information"),
    ],
)
def test_importances_of_two_kinds_do_not_add_up(
    plugins, message, three_tasks, tmp_path
):
    second, third = (phase(t, plugins=(p,)) for t, p in zip("bc", plugins, strict=True))
    phases = phase("z"), second, third
    with pytest.raises(ValueError, match=message):
        Runner(three_tasks, tmp_path).run("", Method("", phases), [0])


@pytest.mark.parametrize(
    ("mas", "task", "message"),
    [
        (MAS(1.0), "z", "mas draws to the weights of a phase before, got the first"),
        (MAS(1.0, examples=0), "b", "mas's examples must be"),
    ],
)
def test_importances_of_nothing_are_refused(mas, task, message, experiment, tmp_path):
    before = () if task == "z" else (phase("z"),)
    phases = (*before, phase(task, plugins=(mas,)))
    with pytest.raises(ValueError, match=message):
        Runner(experiment, tmp_path).run("", Method("", phases), [0])
