"""What a command would train, and in how many steps."""

import json
import pathlib

from examples.runner import batches, rows
from examples.runner.checks import check_experiment
from examples.runner.data import Experiment
from examples.runner.method_checks import check_method
from examples.runner.plan import Method, as_json
from examples.runner.words import count


def describe(
    experiment: Experiment,
    methods: dict[str, Method],
    seeds: list[int],
    path: pathlib.Path,
) -> list[str]:
    """Says what would be trained.

    Args:
      experiment: the model and the tasks.
      methods: by their names.
      seeds: of each.
      path: of the rows; what has one isn't trained again.

    Returns:
      A line a method, and their sum.

    Raises:
      ValueError: the tasks, the model or a method can't be trained.
      TypeError: likewise.
    """
    check_experiment(experiment)
    sizes = {name: len(task.train.labels) for name, task in experiment.tasks.items()}
    tasks, there = batches.of_tasks(sizes), rows.read(path)
    lines, trained, total = [], set(), 0
    for name, method in methods.items():
        check_method(method, experiment, tasks)
        of_method = rows.select(there, method, experiment.settings)
        done = {row["seed"] for row in of_method}
        todo = [seed for seed in seeds if seed not in done]
        steps = [
            batches.steps(phase, tasks, experiment.batch_size)
            for phase in method.phases
        ]
        for seed in todo:
            for number in range(1, len(steps) + 1):
                # What several methods begin with is trained once.
                key = json.dumps([as_json(method.phases[:number]), seed])
                total += steps[number - 1] * (key not in trained)
                trained.add(key)
        epochs = sum(sum(phase.epochs.values()) for phase in method.phases)
        most = "at most " * any(p.stop_loss is not None for p in method.phases)
        lines.append(
            f"{name} ({method.title}): {len(todo)} of {count(len(seeds), 'seed')}, each"
            f" {most}{count(epochs, 'epoch')} in {count(len(steps), 'phase')},"
            f" {count(sum(steps), 'step')}"
        )
    lines.append(
        f"Together {count(total, 'step')} of {experiment.batch_size} examples; what"
        " several methods begin with is trained once."
    )
    return lines
