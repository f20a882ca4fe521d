"""Rows of the vision experiment, made up for tests of tables and figures."""

from examples.runner.plan import as_json
from examples.vision.study import STUDY

SETTINGS = {"experiment": "vision", "batch_size": 32}


TASKS = ("mnist", "fashion_mnist")


EWC = next(front for front in STUDY.fronts if front.title == "EWC")


def row(
    name,
    seed=0,
    final=(0.9, 0.8),
    after_mnist=0.95,
    finite=True,
    device="2 cores",
    is_open=None,
    **changes,
):
    """A row of results; with dropout 0.1 less, on the training sets 0.01 more."""
    method, results, step = STUDY.methods[name], [], 0
    for index in range(1, len(method.phases) + 1):
        last = index == len(method.phases)
        accuracies = final if last else (after_mnist, 0.1)
        seen = TASKS if last else TASKS[:1]
        step += 10
        results.append(
            {
                "accuracy": {
                    task: {
                        split: [accuracy + more, accuracy + more - 0.1]
                        for split, more in (("train", 0.01), ("test", 0.0))
                        if split in method.splits
                    }
                    for task, accuracy in zip(TASKS, accuracies, strict=True)
                    if task in seen
                },
                "curve": {
                    "step": [0, step],
                    "accuracy": {
                        task: [[0.1, 0.1], [accuracy, accuracy - 0.1]]
                        for task, accuracy in zip(TASKS, accuracies, strict=True)
                    },
                },
                "update_density": 0.2 * index,
                "seconds": 60.0,
                "bytes_per_weight": 8.00001,
                "finite": finite or not last,
                "unassigned_share": 0.25,
                "is_open": is_open,
                "device": device,
                "versions": {"jax": "1.0"},
            }
        )
    made = {
        "method": name,
        "seed": seed,
        "settings": SETTINGS,
        "phases": as_json(method.phases),
        "results": results,
    }
    return made | changes


def lines_of(table):
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
