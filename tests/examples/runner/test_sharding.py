"""Training on eight devices, of one process and of two."""

import contextlib
import pathlib
import socket
import subprocess
import sys

import chex
import jax
import numpy as np
import optax
import pytest

import classp_jax
from examples.runner import rows, sharding
from examples.runner.trainer import Trainer
from examples.vision.__main__ import main
from tests.examples.helpers import random_split
from tests.examples.runner.several_devices import METHODS, from_disk, train
from tests.helpers import Network

ROOT = pathlib.Path(__file__).parents[3]


def make_mesh(text):
    return sharding.make_mesh([sharding.axis(axis) for axis in text.split(",")])


def accuracies(folder):
    return {
        (row["method"], row["seed"]): [result["accuracy"] for result in row["results"]]
        for row in rows.read(folder / "rows.jsonl")
    }


def test_a_batch_is_cut_among_the_devices():
    trainer = Trainer(
        Network, classp_jax.classp(0.1), lambda x: x / 255, make_mesh("data=8")
    )
    data = jax.device_put(random_split(44, 0))
    step = jax.jit(trainer.train_step).lower(trainer.init(0), *data, np.arange(16))
    assert "all-reduce(" in step.compile().as_text()  # Of the gradient.


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return jax.device_get([s.params for s in train(folder, None).values()]), folder


@pytest.mark.parametrize(
    ("text", "vmap_seeds"),
    [
        # Of two processes below.
        pytest.param("data=8", 1, marks=pytest.mark.slow),
        ("data=4,model=2", 2),
    ],
)
def test_a_mesh_trains_as_one_device_does(
    on_one_device, text, vmap_seeds, tmp_path, monkeypatch
):
    monkeypatch.setattr(sharding, "LARGE", 1)
    mesh = make_mesh(text)
    states = train(tmp_path, mesh, vmap_seeds=vmap_seeds)
    params, folder = on_one_device
    actual = sharding.to_host([state.params for state in states.values()])
    chex.assert_trees_all_close(actual, params, rtol=1e-5, atol=1e-6)
    assert accuracies(tmp_path) == accuracies(folder)
    for row in rows.read(tmp_path / "rows.jsonl"):
        assert row["results"][-1]["device"].endswith("as 8 devices")

    # The sum lies where the weights do, and both where they were put.
    state = states["classp"]
    grad_sum = optax.tree.get(state.opt_state, "grad_sum")
    for x in jax.tree.leaves((state.params, grad_sum)):
        assert x.sharding.is_equivalent_to(sharding.sharding_of(mesh, x.shape), x.ndim)
    kernel = jax.tree.leaves(state.params["hidden"]["kernel"])[0]
    cut = 8 // mesh.shape["model"]  # Of the hidden layer's eight units.
    assert kernel.addressable_shards[0].data.shape == (6, cut)


def two_processes(*arguments):
    """Starts two on a folder and a mesh; the last line and the errors of each."""
    folder, text, *more = map(str, arguments)
    command = [sys.executable, "-m", "tests.examples.runner.several_devices"]
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [*command, folder, text, address, "2", str(i), *more],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    ends = [process.communicate(timeout=300) for process in processes]
    for process, (_, err) in zip(processes, ends, strict=True):
        assert process.returncode == 0, err
    return [(out.split("\n")[-2], err) for out, err in ends]


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    """What they end with, and their folder: examples in memory first, then read."""
    folder = tmp_path_factory.mktemp("two")
    return two_processes(folder, "data=8", "data=4,model=2"), folder


def test_two_processes_train_as_one_device_does(on_one_device, of_two_processes):
    ends, folder = of_two_processes
    assert_as_on_one_device(folder, on_one_device, METHODS)
    # Each once, not once a process.
    assert len(rows.read(folder / "rows.jsonl")) == 6
    assert ends[1][1].count("step/s") == 0  # One progress bar.


@pytest.mark.slow
def test_two_processes_cut_weights_among_them(on_one_device, tmp_path):
    ends = two_processes(tmp_path, "model=8")
    assert [out for out, _ in ends] == 2 * ["[2, 8, []]"]
    assert_as_on_one_device(tmp_path, on_one_device, METHODS)


def test_each_of_two_processes_reads_its_part_of_a_batch(
    on_one_device, of_two_processes
):
    ends, folder = of_two_processes
    # Of the 20 in a batch, of those that EWC and accuracy take.
    assert [out for out, _ in ends] == 2 * ["[2, 8, [10, 20, 44]]"]
    assert_as_on_one_device(folder / "disk", on_one_device, ["classp", "ewc"])
    assert len(rows.read(folder / "disk" / "rows.jsonl")) == 4


@pytest.mark.parametrize(
    ("text", "at_once"),
    # Of 20 eight devices have no even share.
    [("data=4,model=2", 40), pytest.param("data=8", 40, marks=pytest.mark.slow)],
)
def test_a_mesh_trains_on_what_it_reads(on_one_device, text, at_once, tmp_path):
    experiment, counts = from_disk()
    train(tmp_path, make_mesh(text), (0, 1), 2, experiment, ["classp"])
    assert max(counts) == 44 and at_once in counts  # Of two seeds.
    read = accuracies(tmp_path)
    assert read == {key: accuracies(on_one_device[1])[key] for key in read}


def assert_as_on_one_device(folder, on_one_device, methods):
    params, expected = on_one_device
    of_methods = dict(zip(METHODS, params, strict=True))
    leaves = jax.tree.leaves({name: of_methods[name] for name in methods})
    with np.load(folder / "weights.npz") as got:
        assert len(got.files) == len(leaves) > 0
        for i, x in enumerate(leaves):
            np.testing.assert_allclose(got[str(i)], x, rtol=1e-5, atol=1e-6)
    read, of_all = accuracies(folder), accuracies(expected)
    assert read == {key: of_all[key] for key in of_all if key[0] in methods}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mesh", "data=3"], "data=3 makes 3 devices, of 8 there are"),
        (["--mesh", "data=2", "data=4"], "an axis is named twice: data=2 data=4"),
        (["--mesh", "rows=8"], "must be data=N or model=N, N from 1 on, got rows=8"),
        (["--mesh", "data=0"], "must be data=N or model=N, N from 1 on, got data=0"),
        (["--distributed", "here:1"], "takes HOST:PORT, COUNT and ID, or none"),
        (["--distributed", "here:1", "two", "0"], "--distributed: invalid literal"),
        (["--distributed", "here:1", "two", "0"], "'two'"),
        (["--distributed", "here:1", "2", "0"], "must be called before any JAX calls"),
    ],
)
def test_a_mesh_that_cannot_be(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*options, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
