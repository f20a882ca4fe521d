"""Adapters alone train, behind a phase that hasn't any."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from examples.methods.checkpoint import Sums
from examples.methods.lora import LoRA
from examples.runner.plan import Method
from examples.runner.run import Runner
from tests.examples.helpers import final_state, phase, read


class Adapted(nnx.Module):
    """Two layers, with adapters if asked to."""

    def __init__(self, rngs, lora_rank=None):
        def linear(inputs, outputs):
            if lora_rank is None:
                return nnx.Linear(inputs, outputs, rngs=rngs)
            return nnx.LoRALinear(inputs, outputs, lora_rank=lora_rank, rngs=rngs)

        self.hidden = linear(6, 8)
        self.out = linear(8, 3)

    def __call__(self, x, *, dropout_rngs=None):
        return self.out(nnx.relu(self.hidden(x)))


@pytest.fixture
def adapted(three_tasks):
    return three_tasks._replace(make_model=Adapted)


FIRST = phase("z", "adam", learning_rate=0.01)
ADAPTERS = 2 * (6 + 8 + 8 + 3)


def then(task, optimizer="adamw", learning_rate=0.05, plugins=()):
    return phase(task, optimizer, learning_rate, plugins=(LoRA(2), *plugins))


def parts(params):
    """The adapters and the other weights, by their paths."""
    flat = dict(nnx.to_flat_state(params))
    adapters = {p: x[...] for p, x in flat.items() if isinstance(x, nnx.LoRAParam)}
    return adapters, {p: x[...] for p, x in flat.items() if p not in adapters}


@pytest.mark.parametrize("optimizer", ["adamw", "classp"])
@pytest.mark.filterwarnings("ignore:A phase's optimizer goes on from a sum")
def test_adapters_alone_train(optimizer, adapted, tmp_path):
    runner = Runner(adapted, tmp_path)
    phases = FIRST, then("b", optimizer), then("c", optimizer)
    before = final_state(runner, phases[:1]).params
    second, third = (final_state(runner, phases[: i + 1]) for i in (1, 2))
    assert not parts(before)[0]
    for after in (second, third):
        chex.assert_trees_all_equal(parts(after.params)[1], parts(before)[1])
    for path, adapter in parts(third.params)[0].items():
        assert np.any(adapter != parts(second.params)[0][path]), path
        # What of the optimizer's state is an array, is of adapters.
    sizes = sum(x.size for x in jax.tree.leaves(third.opt_state) if jnp.ndim(x))
    assert sizes == ADAPTERS * (2 if optimizer == "adamw" else 1)


def test_adapters_change_nothing_before_they_train(adapted, tmp_path):
    runner = Runner(adapted, tmp_path)
    still = then("b", "sgd", 0.0)
    runner.run("", Method("", (FIRST, still)), [0])
    (row,) = read(tmp_path)
    first, second = (result["accuracy"] for result in row["results"])
    assert first == second
    assert row["results"][-1]["bytes_per_weight"] == 0


def test_what_the_first_phase_trains_is_shared_with_other_methods(adapted, tmp_path):
    runner = Runner(adapted, tmp_path)
    runner.run("", Method("", (FIRST, then("b"))), [0])
    made = set(tmp_path.glob("checkpoints/*.npz"))
    runner.run("", Method("", (FIRST, phase("b", "adamw"))), [0])
    assert set(tmp_path.glob("checkpoints/*.npz")) == made and len(made) == 1


@pytest.mark.filterwarnings("ignore:A phase's optimizer goes on from a sum")
def test_sums_of_a_pass_are_those_of_the_adapters(adapted, tmp_path):
    phases = FIRST, then("b", "classp", 0.0, (Sums("data", examples=32),))
    state = final_state(Runner(adapted, tmp_path), phases)
    sums = jax.tree_util.tree_leaves_with_path(
        optax.tree.get(state.opt_state, "grad_sum")
    )
    assert sum(x.size for _, x in sums) == ADAPTERS
    # The second factors begin as 0, so that no gradient reaches the first ones.
    for path, of_adapter in sums:
        assert np.any(of_adapter > 0) == ("lora_b" in str(path)), path


def test_a_model_may_not_lose_weights(adapted, tmp_path):
    with pytest.raises(ValueError, match="phase 3: the model before has weights"):
        phases = FIRST, then("b"), phase("c", "adamw")
        Runner(adapted, tmp_path).run("", Method("", phases), [0])


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ((then("z"),), "lora adapts a phase before, got the first"),
        ((FIRST, phase("b", plugins=(LoRA(0),))), "lora's rank must be an integer"),
    ],
)
def test_what_cannot_be_adapted_is_refused(phases, message, adapted, tmp_path):
    with pytest.raises(ValueError, match=message):
        Runner(adapted, tmp_path).run("", Method("", phases), [0])
