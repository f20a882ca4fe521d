"""What the streams compare: every method, each with one setting to choose."""

from examples.datasets.stream import Stream
from examples.methods.registry import TaskSequence, sweeps
from examples.runner.study import Study, make_front, of_fronts


def study(stream: Stream, epochs: int, batch_size: int) -> Study:
    """What is compared on a stream.

    Args:
      stream: the stream.
      epochs: on each task.
      batch_size: examples a step, of which replay takes half from its memory.

    Returns:
      The study; a group a method, with its values of the setting, ``all``, but for the
      sums in fewer bits, ``stored``, the numbers of directions, ``rank``, the sums that
      forget, ``memory``, what follows a clock, ``clock``, and the baselines without
      rows so far, ``further``.
    """
    tasks = {f"task_{i}": f"Task {i}" for i in range(1, stream.tasks + 1)}
    sequence = TaskSequence(tuple(tasks), epochs, batch_size)
    fronts = {
        sweep.name: make_front(
            sweep.name,
            sweep.title,
            sweep.knob,
            sweep.family,
            {value: sweep.phases(sequence, value) for value in sweep.values},
        )
        for sweep in sweeps()
    }
    together = {
        group: of_fronts([fronts[s.name] for s in sweeps() if s.group == group])
        for group in dict.fromkeys(sweep.group for sweep in sweeps())
    }
    chance = 100 * stream.chance
    return Study(
        experiment="streams",
        title=_title(stream),
        table="",
        tasks=tasks,
        judged_on=dict.fromkeys(tasks, "test"),
        nothing=dict.fromkeys(tasks, chance + min(5.0, chance / 2)),
        groups=together | {name: of.methods for name, of in fronts.items()},
        published={},
        fronts=list(fronts.values()),
    )


def _title(stream: Stream) -> str:
    title = f"{stream.definition.title}, {stream.tasks} tasks"
    if len(stream.definition.scenarios) > 1:
        title += f", {stream.scenario}-incremental"
    return title + ", validation" * stream.validation
