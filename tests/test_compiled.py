"""What the compiled programs read, write, keep and send; see benchmarks.compiled."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

import classp_jax
from benchmarks import compiled
from benchmarks.timing import LEAST

CHIPS = list(compiled.TPUS)
FEW = 2**16  # Weights: on a CPU the program is the same for any number.


def scalars(sent):
    return all(what == "all-reduce" and count <= 4 for what, count in sent)


def test_a_tpus_own_venv_needs_no_torch():
    without = "import sys; sys.modules['torch'] = None; import benchmarks.compiled"
    subprocess.run([sys.executable, "-c", without], check=True)


@pytest.mark.parametrize("power", ["1", "2", "1.5"])
def test_classp_moves_no_more_than_adagrad_on_a_cpu(power):
    adagrad = compiled.update("optax.adagrad", None, FEW)
    program = compiled.update(f"classp, p {power}", None, FEW)
    assert program.moved <= 1.001 * adagrad.moved
    assert program.kept < 0.01 * FEW


@pytest.mark.parametrize("power", [1, 2, 1.5])
@pytest.mark.parametrize("reading", ["classp", "classp_equation1", "classp_released"])
def test_the_program_of_many_tensors_is_shorter_than_adams(reading, power):
    """What takes the time to trace and compile."""
    params = [jnp.ones(shape) for shape in 50 * [(8, 8), (8,)]]

    def lines(optimizer):
        arguments = params, optimizer.init(params), params
        return len(jax.jit(optimizer.update).lower(*arguments).as_text().splitlines())

    ours = lines(getattr(classp_jax, reading)(0.1, power=power))
    assert ours <= 0.5 * lines(optax.adam(0.1))


@pytest.mark.tpu
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", compiled.UPDATES)
def test_the_update_moves_the_least_on_a_tpu(name, chip, capsys):
    program = compiled.update(name, compiled.tpus(chip))
    moved = program.moved / compiled.WEIGHTS
    with capsys.disabled():
        print(f"\n{name}, {chip}: {moved:.3f} bytes a weight", end="")
    least = LEAST
    if name == "optax.adam":
        least += 8  # A second accumulator.
    elif "relative" in name or "released" in name:
        least += 4  # The gradient once more, before it is known what passes.
    elif "factored" in name:
        least += 4 - 8  # Likewise; and no sum a weight is read and written.
    # What the sums of rows and columns add is less than a hundredth.
    assert moved == pytest.approx(least, rel=0.005 if "factored" in name else 0.001)
    assert program.kept < 0.01 * compiled.WEIGHTS
    # The weights lie on four devices; at most numbers of a tensor are shared, and the
    # sums of its columns.
    if "factored" in name:
        assert {what for what, _ in program.sent} == {"all-reduce"}
        assert sum(count for _, count in program.sent) <= compiled.COLUMNS + 4
    else:
        assert scalars(program.sent)
        assert bool(program.sent) == ("relative" in name or "released" in name)


@pytest.mark.tpu
@pytest.mark.parametrize(
    ("name", "operations", "constant"),
    # The attention's scores don't depend on the keys' biases, 600 weights.
    [("CNN", 1, 0), ("Transformer", 2, 600)],
)
def test_a_train_step_on_four_tpus_sends_its_gradient_once(
    name, operations, constant, capsys
):
    sent = compiled.train_step(name, compiled.tpus("v5e")).sent
    with capsys.disabled():
        print(f"\n{name}: {sent}", end="")
    assert {what for what, _ in sent} == {"all-reduce"}
    assert len(sent) == operations
    gradient_and_loss = compiled.weights(name) - constant + 1
    assert sum(count for _, count in sent) == gradient_and_loss
