"""The streams: the tasks that they make of a data set."""

import numpy as np
import pytest
from PIL import Image

from examples.datasets.stream import Stream, benchmarks
from examples.runner.data import Split, Task


def whole(train=80, test=40, seed=0):
    """A data set that a network learns: a few bright pixels a class."""
    rng = np.random.default_rng(seed)

    def split(n):
        labels = (np.arange(n) % 10).astype(np.int32)
        images = rng.integers(0, 40, (n, 28, 28, 1)).astype(np.uint8)
        images[np.arange(n), 2 * labels + 4, 9:19] = 255
        return Split(images, labels)

    return Task(split(train), split(test))


def stream(benchmark, scenario=None, tasks=None, **options):
    of = benchmarks()[benchmark]
    return Stream(benchmark, scenario or of.scenarios[0], tasks or of.tasks, **options)


def test_permuted_mnist_has_the_permutations_of_avalanche():
    data = whole()
    tasks = stream("permuted_mnist", seed=3).of(data)
    assert list(tasks) == [f"task_{i}" for i in range(1, 11)]
    # PermutedMNIST(10, seed=3) draws one a task from this generator; none is as it was.
    rng = np.random.RandomState(3)
    for task in tasks.values():
        permutation = rng.permutation(784)
        for moved, split in zip(task, data, strict=True):
            flat = split.inputs.reshape(len(split.labels), 784)
            expected = flat[:, permutation].reshape(split.inputs.shape)
            np.testing.assert_array_equal(moved.inputs, expected)
            np.testing.assert_array_equal(moved.labels, split.labels)
            assert moved.inputs.dtype == np.uint8


def test_the_long_stream_has_the_same_permutations_of_the_first_images(monkeypatch):
    data = whole(20_030, 2_020)
    monkeypatch.setattr("examples.datasets.mnist.load", lambda *_: {"mnist": data})
    of = stream("permuted_mnist_long", tasks=12, seed=3)
    tasks = of.load()
    rng = np.random.RandomState(3)
    for task in tasks.values():
        permutation = rng.permutation(784)
        for moved, split, count in zip(task, data, (20_000, 2_000), strict=True):
            np.testing.assert_array_equal(moved.labels, split.labels[:count])
            few = split.inputs[:count].reshape(count, 784)[::500]
            actual = moved.inputs.reshape(count, 784)[::500]
            np.testing.assert_array_equal(actual, few[:, permutation])
    assert benchmarks()["permuted_mnist_long"].tasks == 60


def test_rotated_mnist_has_the_angles_of_avalanche_and_turns_as_pillow_does():
    data = whole(20, 10)
    rng = np.random.RandomState(0)
    for task in stream("rotated_mnist", tasks=5).of(data).values():
        angle = int(rng.randint(-180, 181))
        for moved, split in zip(task, data, strict=True):
            expected = [
                np.asarray(Image.fromarray(image[..., 0]).rotate(angle))
                for image in split.inputs
            ]
            np.testing.assert_array_equal(moved.inputs[..., 0], expected)


@pytest.mark.parametrize("benchmark", ["permuted_mnist_drift", "rotated_mnist_drift"])
def test_a_stream_that_drifts_shows_each_image_once_and_ends_elsewhere(benchmark):
    data = whole(240, 120)
    tasks = list(stream(benchmark, seed=2).of(data).values())
    assert len(tasks) == 60
    for split in range(2):
        labels = np.concatenate([task[split].labels for task in tasks])
        assert len(labels) == len(data[split].labels)
        for segment, task in enumerate(tasks):
            np.testing.assert_array_equal(
                task[split].labels, data[split].labels[segment::60]
            )
    assert not np.array_equal(tasks[0].train.inputs, data.train.inputs[::60])
    again = stream(benchmark, seed=2).of(data)["task_32"]
    np.testing.assert_array_equal(again.train.inputs, tasks[31].train.inputs)


def test_what_turns_is_three_degrees_further_in_each_segment():
    data = whole(120, 60)
    start = int(np.random.RandomState(2).randint(-180, 181))
    tasks = stream("rotated_mnist_drift", seed=2, tasks=50).of(data)
    for segment in (0, 1, 49):
        images = tasks[f"task_{segment + 1}"].train.inputs[..., 0]
        expected = [
            np.asarray(Image.fromarray(image).rotate(start + 3 * segment))
            for image in data.train.inputs[segment::60, ..., 0]
        ]
        np.testing.assert_array_equal(images, expected)


def test_of_two_permutations_the_share_of_the_next_one_grows():
    data = whole(6000, 60)
    tasks = stream("permuted_mnist_drift", seed=2, tasks=14).of(data)
    rng = np.random.RandomState(2)
    orders = [rng.permutation(784) for _ in range(4)]
    for segment, task in enumerate(tasks.values()):
        flat = data.train.inputs[segment::60].reshape(-1, 784)
        shares = [
            np.mean((task.train.inputs.reshape(-1, 784) == flat[:, order]).all(axis=1))
            for order in orders
        ]
        first, of_next = divmod(segment, 6)
        expected = np.zeros(4)
        expected[first : first + 2] = 1 - of_next / 6, of_next / 6
        # Of 100 images a segment: three deviations; exact where one is alone.
        room = 3 * np.sqrt(of_next / 6 * (1 - of_next / 6) / 100)
        np.testing.assert_allclose(shares, expected, atol=room)


@pytest.mark.parametrize("benchmark", ["split_mnist", "split_fashion_mnist"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_split_streams(benchmark, scenario, seed):
    data = whole()
    of = stream(benchmark, scenario, seed=seed)
    tasks, seen = of.of(data), []
    assert len(tasks) == 5
    for number, task in enumerate(tasks.values()):
        for part, split in zip(task, data, strict=True):
            # Whose image it is, by the bright row.
            classes = (part.inputs[:, ::2, 9, 0] == 255).argmax(1) - 2
            pair = np.unique(classes)
            assert len(pair) == 2 and len(part.labels) == len(split.labels) / 5
            if scenario == "domain":
                assert set(part.labels) == {0, 1}
                pairs = zip(classes.tolist(), part.labels.tolist(), strict=True)
                assert len(set(pairs)) == 2
            else:
                np.testing.assert_array_equal(part.labels, classes)
        if scenario == "task":
            assert [of.heads[label] for label in pair] == [number, number]
        seen += pair.tolist()
    assert sorted(seen) == list(range(10))
    assert (seen == list(range(10))) == (seed == 0)
    assert of.outputs == (2 if scenario == "domain" else 10)
    assert of.chance == (0.1 if scenario == "class" else 0.5)
    assert (of.heads is None) == (scenario != "task")
    assert [of.tasks_of_classes[label] for label in seen] == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
    ]


@pytest.mark.parametrize(
    ("benchmark", "tasks", "classes"),
    [("split_cifar100", 10, 100), ("split_cifar10", 5, 10)],
)
@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_split_cifar_has_all_classes_once(benchmark, tasks, classes, scenario):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), 3))
    # The first pixel says whose image it is.
    images = np.zeros((len(labels), 32, 32, 3), np.uint8)
    images[:, 0, 0, 0] = labels
    split = Split(images, labels.astype(np.int32))
    of, seen = stream(benchmark, scenario, seed=1), []
    made = of.of(Task(split, split))
    assert len(made) == tasks and of.definition.shape == images.shape[1:]
    for number, task in enumerate(made.values()):
        assert task.train.labels.dtype == np.int32
        truth, told = task.train.inputs[:, 0, 0, 0], task.train.labels
        there = np.unique(truth)
        assert len(there) == classes // tasks and len(told) == 3 * len(there)
        if scenario == "domain":
            # In the order in which the stream has them.
            group = of.definition.order(1)[len(seen) :][: len(there)]
            np.testing.assert_array_equal(group[told], truth)
        else:
            np.testing.assert_array_equal(told, truth)
        assert {of.tasks_of_classes[label] for label in there} == {number}
        seen += there.tolist()
    assert sorted(seen) == list(range(classes)) and seen != sorted(seen)
    assert of.outputs == (classes // tasks if scenario == "domain" else classes)
    assert of.chance == pytest.approx(
        1 / (classes if scenario == "class" else len(there))
    )


def test_validation_holds_out_of_the_training_set():
    data = whole(100, 40)
    tasks = stream("permuted_mnist", validation=True).of(data)
    for task in tasks.values():
        assert (len(task.train.labels), len(task.test.labels)) == (90, 10)
    first = stream("split_mnist", validation=True).of(data)["task_1"].test
    assert all(any(np.array_equal(i, j) for j in data.train.inputs) for i in first[0])
