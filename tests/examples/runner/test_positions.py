"""Examples with a label at each of their positions, measured in bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from examples.methods.checkpoint import Sums
from examples.methods.ewc import EWC
from examples.methods.l2_sp import L2SP
from examples.methods.replay import Replay
from examples.runner import rows
from examples.runner.data import Experiment, Split, Task
from examples.runner.plan import Method
from examples.runner.run import Runner
from examples.runner.trainer import Trainer
from tests.examples.helpers import final_state, phase, read

CLASSES, POSITIONS = 5, 7


class NextToken(nnx.Module):
    """A table of logits behind each token, and a bias for each position."""

    def __init__(self, rngs):
        self.behind = nnx.Embed(CLASSES, CLASSES, rngs=rngs)
        self.at = nnx.Param(jnp.zeros((POSITIONS, CLASSES)))

    def __call__(self, x, *, dropout_rngs=None):
        return self.behind(x.astype(jnp.int32)) + self.at[...]


def text(n, seed):
    tokens = np.random.default_rng(seed).integers(0, CLASSES, (n, POSITIONS + 1))
    return Split(tokens[:, :-1].astype(np.uint8), tokens[:, 1:].astype(np.int32))


def with_identity(inputs):
    return inputs


@pytest.fixture
def texts():
    tasks = {name: Task(text(40, i), text(60, 9 + i)) for i, name in enumerate("zb")}
    return Experiment("texts", NextToken, with_identity, tasks, 8, measure="bits")


def bits_of(params, inputs, labels):
    """By NumPy, in float64."""
    behind, at = (
        np.asarray(p, np.float64)
        for p in (params["behind"]["embedding"][...], params["at"][...])
    )
    logits = behind[np.asarray(inputs)] + at
    log_sum = np.log(np.exp(logits).sum(-1))
    of_label = np.take_along_axis(logits, np.asarray(labels)[..., None], -1)[..., 0]
    return (log_sum - of_label) / np.log(2)


def test_bits_are_the_mean_over_all_positions(texts):
    trainer = Trainer(NextToken, optax.sgd(0.1), with_identity, measure="bits")
    params = trainer.init(0).params
    for n in (3, 50, 120):
        inputs, labels = text(n, n)
        expected = bits_of(params, inputs, labels).mean()
        off, on = trainer.evaluate(params, inputs, labels, jax.random.key(0))
        assert float(off) == pytest.approx(expected, rel=1e-5)
        assert off == on


def test_the_loss_is_the_mean_over_examples_and_their_positions(texts):
    trainer = Trainer(NextToken, optax.sgd(1.0), with_identity)
    data = texts.tasks["z"].train
    before = trainer.init(0)
    after, loss = trainer.train_step(before, *data, np.array([3, 5, -1]))
    two = Split(*(x[np.array([3, 5])] for x in data))
    nats = bits_of(before.params, *two) * np.log(2)
    assert float(loss) == pytest.approx(nats.mean(), rel=1e-5)
    # The gradient of the bias: probabilities less the label's one, the mean over both.
    logits = trainer.classifier.logits(before.params, two.inputs, None)
    excess = jax.nn.softmax(logits) - jax.nn.one_hot(two.labels, CLASSES)
    step = before.params["at"][...] - after.params["at"][...]
    np.testing.assert_allclose(step, excess.mean(0) / POSITIONS, atol=1e-6)


def test_rows_have_bits_and_are_found_again(texts, tmp_path):
    method = Method("", (phase("z"), phase("b")), ("train", "test"))
    runner = Runner(texts, tmp_path)
    runner.run("sgd", method, [0])
    (row,) = read(tmp_path)
    assert rows.select([row], method, texts.settings) == [row]
    params = final_state(runner, method.phases).params
    for name, task in texts.tasks.items():
        expected = bits_of(params, *task.test).mean()
        actual = row["results"][-1]["bits"][name]["test"][0]
        assert actual == pytest.approx(expected, rel=1e-5)
        curve = row["results"][-1]["curve"]["bits"][name]
        assert curve[-1][0] == pytest.approx(expected, rel=1e-5)
    assert "accuracy" not in row["results"][0]
    assert "measure" not in row["settings"]


@pytest.mark.parametrize(
    ("optimizer", "plugins"),
    [
        ("sgd", (Replay(0.1, 2),)),
        ("sgd", (EWC(1.0, examples=20),)),
        ("sgd", (EWC(1.0, fisher="moment"),)),
        ("sgd", (L2SP(1.0),)),
        *(
            ("classp", (Sums(source, examples=32),))
            for source in ("moment", "data", "unlabelled", "noise")
        ),
    ],
)
def test_plugins_take_positions(optimizer, plugins, texts, tmp_path):
    texts = texts._replace(
        tasks={
            n: Task(*(Split(x.inputs % CLASSES, x.labels) for x in t))
            for n, t in texts.tasks.items()
        }
    )
    first = phase("z", "adam", learning_rate=0.01)
    then = phase("b", optimizer, plugins=plugins)
    runner = Runner(texts, tmp_path)
    state = final_state(runner, (first, then))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_fisher_information_is_of_whole_examples(texts, tmp_path):
    plugin = EWC(1.0, examples=40)
    state = final_state(
        Runner(texts, tmp_path), (phase("z"), phase("b", plugins=(plugin,)))
    )
    before = final_state(Runner(texts, tmp_path), (phase("z"),)).params
    inputs, labels = texts.tasks["z"].train
    trainer = Trainer(NextToken, optax.sgd(1.0), with_identity)
    logits = trainer.classifier.logits(before, inputs, None)
    gradient = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, CLASSES)) / POSITIONS
    fisher = optax.tree.get(state.opt_state, "fisher")["at"][...]
    np.testing.assert_allclose(fisher, (gradient**2).mean(0), rtol=1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(measure="nats"), "measure must be 'accuracy' or 'bits', got 'nats'"),
        (dict(measure="accuracy"), "labels must be integers of shape (n,), a class"),
        (dict(preprocess=lambda x: x[0]), "of shape (n, 7, classes), but of two"),
    ],
)
def test_positions_that_do_not_fit_are_refused(changed, message, texts, tmp_path):
    with pytest.raises(ValueError) as info:
        Runner(texts._replace(**changed), tmp_path)
    assert message in str(info.value)


def test_other_digits_are_no_text(texts, tmp_path):
    plugin = Sums("other", examples=32)
    phases = phase("z", "adam"), phase("b", "classp", plugins=(plugin,))
    with pytest.raises(ValueError, match="'other' are digits, .* not uint8 .*7"):
        final_state(Runner(texts, tmp_path), phases)
