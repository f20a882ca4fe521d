"""What the compiled programs read, write, keep and send; see benchmarks.compiled."""

import functools
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import classp_jax
from benchmarks import compiled
from benchmarks.timing import LEAST

CHIP = "v5e"
CHIPS = list(compiled.TPUS)
FEW = 2**16  # Weights: on a CPU the program is the same for any number.
RANK = 64
SKETCH = f"classp_gram, rank {RANK}"


def scalars(sent):
    return all(what == "all-reduce" and count <= 4 for what, count in sent)


def test_a_tpus_own_venv_needs_no_torch():
    without = "import sys; sys.modules['torch'] = None; import benchmarks.compiled"
    subprocess.run([sys.executable, "-c", without], check=True)


def cpus(*shape):
    return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


# On each device (rows, columns) of a gradient G, its sketch's products with a random
# matrix of rank R and with a basis are (R, columns), and with these (rows, R); a
# refresh sends two of (R, R).
@pytest.mark.parametrize(
    ("shape", "cut", "elements"),
    [
        ((8, 1), ("data",), lambda m, n: 2 * RANK * n + 2 * RANK**2),
        ((8, 1), (None, "data"), lambda m, n: m * RANK),
        ((2, 4), ("data", "model"), lambda m, n: 2 * RANK * (n + RANK) + m * RANK),
        ((2, 4), (("data", "model"),), lambda m, n: 2 * RANK * (n + RANK)),
    ],
    ids=["inputs", "outputs", "both", "inputs, by both"],
)
def test_of_a_matrix_that_is_cut_a_sketchs_products_are_sent_alone(
    shape, cut, elements
):
    mesh = cpus(*shape)
    program = compiled.update(SKETCH, mesh, FEW, cut)
    assert {what for what, _ in program.sent} == {"all-reduce"}
    rows = FEW // compiled.COLUMNS * mesh.size
    over = [math.prod(mesh.shape[name] for name in names) for names in axes_of(cut)]
    expected = elements(rows // over[0], compiled.COLUMNS // over[1])
    # And the trace, along each axis of the mesh.
    assert 0 < sum(count for _, count in program.sent) - expected <= 2


def axes_of(cut):
    """The names of the mesh's axes that a matrix's rows and columns are cut over."""
    names = [*cut, None][:2]
    return [(n,) if isinstance(n, str) else n or () for n in names]


@pytest.mark.parametrize(
    ("cut", "sent"),
    [(("data",), []), ((None, "data"), [("all-reduce", 8 * 51 * 51)])],
    ids=["inputs", "outputs"],
)
def test_of_a_matrix_that_is_cut_blocks_are_sent_once_or_not_at_all(
    cut, sent, monkeypatch
):
    in_blocks = functools.partial(classp_jax.classp_gram, max_dim=51, rank=None)
    monkeypatch.setitem(compiled.UPDATES, "in blocks", in_blocks)
    assert compiled.update("in blocks", cpus(8, 1), FEW, cut).sent == sent


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


# On the other chips a reading with the power that has no shortcut.
@pytest.mark.tpu
@pytest.mark.parametrize(
    ("name", "chip"),
    [
        (name, chip)
        for name in compiled.UPDATES
        for chip in CHIPS
        if name != SKETCH and (chip == CHIP or not name.endswith((", p 1", ", p 2")))
    ],
)
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
    ("cut", "chip"),
    [
        (("data",), CHIP),
        ((None, "data"), CHIP),
        (("data",), "v4"),
        ((None, "data"), "v6e"),
    ],
    ids=["inputs, v5e", "outputs, v5e", "inputs, v4", "outputs, v6e"],
)
def test_tpus_send_a_sketchs_products_alone(cut, chip, capsys):
    program = compiled.update(SKETCH, compiled.tpus(chip), cut=cut)
    moved = program.moved / compiled.WEIGHTS
    with capsys.disabled():
        print(f"\n{SKETCH}, {cut}, {chip}: {moved:.3f} bytes a weight", end="")
    if cut[0]:  # Else, what a device adds to the sum.
        assert program.kept < 0.01 * compiled.WEIGHTS
    assert {what for what, _ in program.sent} == {"all-reduce"}
    rows = compiled.WEIGHTS // compiled.COLUMNS * 4
    inputs = 2 * RANK * (compiled.COLUMNS + RANK)
    expected = inputs if cut[0] else rows * RANK
    assert sum(count for _, count in program.sent) == expected + 1  # The trace.


@pytest.mark.tpu
@pytest.mark.parametrize(
    "scale",
    [
        classp_jax.scale_by_accumulated_power_norm(),
        classp_jax.scale_by_accumulated_power_norm(factored=True),
        classp_jax.scale_by_accumulated_gram(rank=RANK),
        classp_jax.scale_by_accumulated_gram(rank=None, max_dim=512),
    ],
    ids=["weights", "factored", "sketch", "blocks"],
)
def test_an_init_compiled_for_tpus_cuts_sums_as_their_matrix(scale):
    rows = NamedSharding(compiled.tpus(CHIP), PartitionSpec("data"))
    params = jax.ShapeDtypeStruct((4096, 256), jnp.float32, sharding=rows)
    places = jax.jit(scale.init).lower(params).compile().output_shardings
    for x, place in zip(
        *map(jax.tree.leaves, (jax.eval_shape(scale.init, params), places)),
        strict=True,
    ):
        # But for the sum of each column, (256,).
        is_cut = x.ndim > 0 and x.shape != (256,)
        assert place.spec == PartitionSpec(*["data"] * is_cut)


@pytest.mark.tpu
@pytest.mark.parametrize(
    ("name", "make_optimizer", "operations", "constant"),
    [
        ("CNN", classp_jax.classp, 1, 0),
        ("CNN", compiled.UPDATES[SKETCH], 1, 0),
        # The attention's scores don't depend on the keys' biases, 600 weights.
        ("Transformer", classp_jax.classp, 2, 600),
    ],
    ids=["CNN, classp", f"CNN, {SKETCH}", "Transformer, classp"],
)
def test_a_train_step_on_four_tpus_sends_its_gradient_once(
    name, make_optimizer, operations, constant, capsys
):
    sent = compiled.train_step(name, compiled.tpus(CHIP), make_optimizer).sent
    with capsys.disabled():
        print(f"\n{name}: {sent}", end="")
    assert {what for what, _ in sent} == {"all-reduce"}
    assert len(sent) == operations
    gradient_and_loss = compiled.weights(name) - constant + 1
    assert sum(count for _, count in sent) == gradient_and_loss
