"""What is refused before anything is trained: data and methods that don't fit."""

import operator
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from examples.runner.data import Experiment
from examples.runner.evaluation import MEASURES
from examples.runner.stored import Stored
from examples.runner.trainer import Trainer

_SPLITS = ("train", "test")


def check_positive_int(what: str, value: Any) -> None:
    """Refuses what isn't an integer from 1 on, with a ``ValueError``."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"{what} must be an integer from 1 on, got {value!r}.")


def check_above_0(what: str, value: float) -> None:
    """Refuses what isn't above 0, NaN too, with a ``ValueError``."""
    if not value > 0:
        raise ValueError(f"{what} must be above 0, got {value}.")


def check_experiment(experiment: Experiment) -> None:
    """Refuses data that the experiment can't be made of.

    Args:
      experiment: the model and the tasks.

    Raises:
      ValueError: a number isn't from 1 on, :func:`check_tasks` refuses the tasks, the
        model can't take their inputs or has variables that aren't parameters, or
        :func:`check_outputs` refuses what it makes.
      TypeError: inputs or labels are no array.
    """
    for what in ("batch_size", "measurements"):
        check_positive_int(what, getattr(experiment, what))
    if experiment.measure not in MEASURES:
        raise ValueError(
            f"measure must be {' or '.join(map(repr, MEASURES))}, got"
            f" {experiment.measure!r}."
        )
    check_tasks(
        experiment.tasks,
        experiment.curve,
        experiment.splits,
        positions=experiment.measure == "bits",
    )
    _check_variables(nnx.eval_shape(lambda: experiment.make_model(nnx.Rngs(0))))
    inputs = next(iter(experiment.tasks.values())).train.inputs
    two = jax.ShapeDtypeStruct((2, *inputs.shape[1:]), inputs.dtype)
    trainer = Trainer(
        experiment.make_model,
        optax.identity(),
        experiment.preprocess,
        dtype=experiment.dtype,
    )
    try:
        logits = trainer.logits_shape(two)
    except Exception as error:  # Whatever layers raise.
        raise ValueError(
            f"The model can't take inputs {inputs.dtype} of shape {two.shape}, two of"
            f" the first task's examples, preprocessed: {error}"
        ) from error
    check_outputs(experiment.tasks, logits, experiment.heads)


def check_tasks(
    tasks: dict[str, Any],
    curve: tuple[str, int],
    splits: tuple[str, ...],
    *,
    positions: bool = False,
) -> None:
    """Refuses tasks of which not every one can be trained and measured.

    Args:
      tasks: by their names, as :class:`examples.runner.data.Experiment` has them.
      curve: likewise.
      splits: likewise.
      positions: whether an example may have a label at each of some positions.

    Raises:
      ValueError: a split is missing or empty, its inputs and labels are of different
        lengths, its inputs aren't finite or not shaped like those of all others, or its
        labels aren't one integer an example, from 0 on.
      TypeError: inputs or labels are no array or a masked one, a task no task, its name
        no string.
    """
    if not tasks:
        raise ValueError("An experiment has a task at least, got none.")
    if isinstance(splits, str) or set(splits) - {*_SPLITS}:
        raise ValueError(f"splits must be some of {_SPLITS}, got {splits!r}.")
    split, count = curve
    if split not in _SPLITS or count < 1:
        raise ValueError(
            "curve must be 'train' or 'test' and a number of examples from 1 on, got"
            f" {curve!r}."
        )
    first = ""
    for name, task in tasks.items():
        if not isinstance(name, str):
            raise TypeError(f"A task's name must be a string, got {name!r}.")
        if getattr(task, "_fields", None) != _SPLITS:
            raise TypeError(
                f"Task {name!r} must be a Task of Splits, got {task!r:.60}."
            )
        for split in dict.fromkeys(("train", curve[0])):
            if getattr(task, split) is None:
                use = "trained" if split == "train" else "measured along training"
                raise ValueError(
                    f"Task {name!r} has no {split} split, on which it is {use} (curve"
                    f" is {curve!r}); it must have one."
                )
        for split, data in task._asdict().items():
            if data is None:
                continue
            where = f"Task {name!r}, {split}"
            if getattr(data, "_fields", None) != ("inputs", "labels"):
                raise TypeError(f"{where}: must be a Split, got {data!r:.60}.")
            _check_split(where, data.inputs, data.labels, positions)
            form = _form(data.inputs)
            first = first or f"{form} in {where}"
            if not first.startswith(f"{form} in "):
                raise ValueError(
                    f"{where}: inputs are {form}, but {first}; all must be alike."
                )


def _check_split(where: str, inputs: Any, labels: Any, positions: bool) -> None:
    stored = isinstance(inputs, Stored)
    arrays = {"labels": labels} if stored else {"inputs": inputs, "labels": labels}
    for what, array in arrays.items():
        if not isinstance(array, np.ndarray | jax.Array):
            raise TypeError(
                f"{where}: {what} must be a NumPy or JAX array, got"
                f" {type(array).__name__}."
            )
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(
                f"{where}: {what} are a masked array, whose mask would be lost;"
                " filled() makes an array of it."
            )
    shape = f"of shape {labels.shape}"
    dimensions = (1, 2) if positions else (1,)
    if labels.ndim not in dimensions or labels.dtype.kind not in "iu":
        remedy = "astype('int32')"
        if labels.ndim > 1:
            remedy = "ravel()" if labels.size == len(labels) else "argmax(-1)"
        raise ValueError(
            f"{where}: labels must be integers of shape (n,)"
            f"{' or (n, positions)' * positions}, a class each, got"
            f" {labels.dtype} {shape}; labels.{remedy} may be what is meant."
        )
    if inputs.ndim == 0 or len(inputs) != len(labels):
        raise ValueError(
            f"{where}: there must be as many inputs as labels, got inputs of shape"
            f" {inputs.shape} and labels {shape}."
        )
    if not len(labels):
        raise ValueError(f"{where}: there must be an example at least, got none.")
    if not stored:
        _check_values(where, np.asarray(inputs))
    elif inputs.dtype.kind not in "iu" or inputs.dtype.itemsize > 4:
        raise ValueError(
            f"{where}: stored inputs must be integers of 32 bits at most, as no others"
            f" are known to be finite before they're read, got {inputs.dtype}."
        )


def _check_values(where: str, inputs: np.ndarray) -> None:
    """Refuses what isn't a finite number, or changes in the dtype JAX gives it."""
    if inputs.dtype.kind in "OSUMmV" and not jax.numpy.issubdtype(
        inputs.dtype, jax.numpy.number
    ):
        raise ValueError(f"{where}: inputs must be numbers, got {inputs.dtype}.")
    dtype = jax.dtypes.canonicalize_dtype(inputs.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        as_there = inputs.astype(dtype, copy=False)
    if jax.numpy.issubdtype(dtype, jax.numpy.inexact):
        right, wanted = np.isfinite(as_there), "finite"
    elif dtype != inputs.dtype:
        right, wanted = as_there == inputs, "within it"
    else:
        return
    if not right.all():
        wrong = np.argwhere(~right.reshape(len(inputs), -1).all(1))[:, 0]
        raise ValueError(
            f"{where}: inputs as {dtype} must be {wanted}, but those of"
            f" {len(wrong)} of {len(inputs)} examples aren't, the first of them example"
            f" {wrong[0]}."
        )


def _form(inputs: Any) -> str:
    dtype = jax.dtypes.canonicalize_dtype(inputs.dtype)
    return f"{dtype} of shape (n{''.join(f', {size}' for size in inputs.shape[1:])})"


def _check_variables(model: nnx.Module) -> None:
    """Refuses a model with a state of its own, which no phase would train or keep."""
    others = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.Param)))
    if found := [
        f"{'.'.join(map(str, path))} ({type(variable).__name__})"
        for path, variable in others
    ]:
        raise ValueError(
            "The model's only variables must be parameters, nnx.Param, but it has"
            f" {', '.join(found)}. A norm must do without running statistics, as"
            " nnx.LayerNorm does, and dropout takes its stream when it is called:"
            " dropout_rngs."
        )


def check_outputs(
    tasks: dict[str, Any], logits: jax.ShapeDtypeStruct, heads: tuple[int, ...] | None
) -> None:
    """Refuses labels that aren't of the model's classes.

    Args:
      tasks: those that :func:`check_tasks` let pass.
      logits: shape and dtype of those of two examples.
      heads: as :class:`examples.runner.trainer.Trainer` takes it.

    Raises:
      ValueError: there are others, or the model's outputs aren't real (n, classes), or
        (n, positions, classes) where labels have positions.
    """
    positions = next(iter(tasks.values())).train.labels.shape[1:]
    if logits.shape[:-1] != (2, *positions):
        form = ", ".join(["n", *map(str, positions), "classes"])
        raise ValueError(
            f"The model must make logits of shape ({form}), but of two examples it"
            f" makes {logits.shape}."
        )
    if not jax.numpy.issubdtype(logits.dtype, jax.numpy.floating):
        raise ValueError(f"The model must make real logits, got {logits.dtype}.")
    outputs = logits.shape[-1]
    if heads is not None and len(heads) != outputs:
        raise ValueError(
            f"heads must name the head of each of the model's {outputs} outputs, got"
            f" {len(heads)}."
        )
    for name, task in tasks.items():
        for split, data in task._asdict().items():
            if data is None:
                continue
            least, most = (int(of(np.asarray(data.labels))) for of in (np.min, np.max))
            if least < 0 or most >= outputs:
                raise ValueError(
                    f"Task {name!r}, {split}: labels must be 0 to {outputs - 1}, as the"
                    f" model has {outputs} outputs, but they are {least} to {most}."
                )


def check_seeds(seeds: Iterable[int]) -> list[int]:
    """The seeds, as Python's integers.

    Raises:
      ValueError: there are none, one is there twice, or one isn't from 0 on and below
        2**31.
      TypeError: one is no integer.
    """
    seeds = [operator.index(seed) for seed in seeds]
    if not seeds:
        raise ValueError("There must be a seed at least, got none.")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**31]:
        raise ValueError(f"Seeds must be 0 or more, below 2**31, got {wrong}.")
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f"Seeds must differ, but {twice} are there more than once.")
    return seeds


def check_splits(splits: tuple[str, ...], measured: list[Any]) -> None:
    """Refuses splits that no task measured has: their row would never be found again.

    Raises:
      ValueError: there are such.
    """
    there = {split for task in measured for split, of in task._asdict().items() if of}
    if isinstance(splits, str) or not splits or set(splits) - there:
        raise ValueError(
            f"splits must be some of {sorted(there)}, which the tasks have, got"
            f" {splits!r}."
        )
