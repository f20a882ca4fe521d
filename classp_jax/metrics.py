"""Measures of continual learning, computed from a matrix of accuracies.

Entry ``[i, j]`` of the matrix is the accuracy on task ``j`` after learning task ``i``,
both counted from 0: one row per task learned, one column per task measured. Entries
that weren't measured are NaN.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from classp_jax import _arrays

__all__ = [
    "average_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "learning_accuracy",
]


def average_accuracy(accuracy: jax.typing.ArrayLike) -> jax.Array:
    r"""Computes the mean accuracy on all tasks after the last one (ACC).

    .. math:: \mathrm{ACC} = \frac{1}{T} \sum_{j=1}^{T} R_{T,j}

    Args:
      accuracy: :math:`R`, real, of shape ``(..., T, T)``: entry ``[i, j]`` is the
        accuracy on task j after learning task i. Leading axes, such as seeds, are kept.
        Only the row of the last task is read.

    Returns:
      The mean, in the unit of ``accuracy``; shape ``(...)``, floating. It is NaN if an
      entry that it reads is.

    Raises:
      ValueError: if ``accuracy`` isn't square in its last two axes, or has no task.
      TypeError: if it isn't an array of real numbers.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax.metrics import average_accuracy
      >>> accuracy = jnp.array([[0.9, 0.5], [0.7, 0.8]])
      >>> print(average_accuracy(accuracy))
      0.75

    References:
      Lopez-Paz and Ranzato, `Gradient Episodic Memory for Continual Learning
      <https://arxiv.org/abs/1706.08840>`_, 2017: Equation 2.
    """
    return jnp.mean(_matrix(accuracy, 1)[..., -1, :], axis=-1)


def backward_transfer(accuracy: jax.typing.ArrayLike) -> jax.Array:
    r"""Computes how much later tasks changed the accuracy on earlier ones (BWT).

    .. math::

      \mathrm{BWT} = \frac{1}{T-1} \sum_{j=1}^{T-1} \left( R_{T,j} - R_{j,j} \right)

    It is below 0 if tasks are forgotten, and above 0 if later tasks help earlier ones.

    Args:
      accuracy: :math:`R`, as for :func:`average_accuracy`. Its diagonal and last row
        are read.

    Returns:
      The mean change, in the unit of ``accuracy``; shape ``(...)``, floating. It is NaN
      if an entry that it reads is.

    Raises:
      ValueError: if ``accuracy`` isn't square in its last two axes, or has fewer than
        two tasks.
      TypeError: if it isn't an array of real numbers.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax.metrics import backward_transfer
      >>> accuracy = jnp.array([[0.75, 0.5], [0.5, 0.8]])
      >>> print(backward_transfer(accuracy))
      -0.25

    References:
      Lopez-Paz and Ranzato, `Gradient Episodic Memory for Continual Learning
      <https://arxiv.org/abs/1706.08840>`_, 2017: Equation 3.

    .. seealso:: :func:`forgetting`
    """
    matrix = _matrix(accuracy, 2)
    diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    return jnp.mean((matrix[..., -1, :] - diagonal)[..., :-1], axis=-1)


def forward_transfer(
    accuracy: jax.typing.ArrayLike, untrained: jax.typing.ArrayLike
) -> jax.Array:
    r"""Computes how much earlier tasks help a task before it is learned (FWT).

    .. math::

      \mathrm{FWT} = \frac{1}{T-1} \sum_{j=2}^{T} \left( R_{j-1,j} - b_j \right)

    Args:
      accuracy: :math:`R`, as for :func:`average_accuracy`. The diagonal above the
        main one is read.
      untrained: :math:`b`, the accuracy on each task before any training; shape
        ``(..., T)``, real, in the unit of ``accuracy``.

    Returns:
      The mean gain, in the unit of ``accuracy``; shape ``(...)``, floating. It is NaN
      if an entry that it reads is.

    Raises:
      ValueError: if ``accuracy`` isn't square in its last two axes or has fewer than
        two tasks, or ``untrained`` has a different number of tasks.
      TypeError: if either isn't an array of real numbers.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax.metrics import forward_transfer
      >>> accuracy = jnp.array([[0.9, 0.75], [0.7, 0.8]])
      >>> print(forward_transfer(accuracy, untrained=jnp.array([0.5, 0.5])))
      0.25

    References:
      Lopez-Paz and Ranzato, `Gradient Episodic Memory for Continual Learning
      <https://arxiv.org/abs/1706.08840>`_, 2017: Equation 4.
    """
    matrix, before = _matrix(accuracy, 2), _real("untrained", untrained)
    tasks = matrix.shape[-1]
    if before.ndim == 0 or before.shape[-1] != tasks:
        raise ValueError(
            f"untrained must have {tasks} tasks, as accuracy has, got shape"
            f" {before.shape}."
        )
    one_ahead = jnp.diagonal(matrix, offset=1, axis1=-2, axis2=-1)
    return jnp.mean(one_ahead - before[..., 1:], axis=-1)


def forgetting(accuracy: jax.typing.ArrayLike) -> jax.Array:
    r"""Computes how far earlier tasks have fallen below their best accuracy (F).

    .. math::

      F = \frac{1}{T-1} \sum_{j=1}^{T-1} \left(
        \max_{l \in \{1, \dots, T-1\}} R_{l,j} - R_{T,j} \right)

    It is below 0 if the last task helped earlier ones. As in the source, the best may
    also be from before a task was learned. Entries that are NaN are skipped in the
    maximum, so the half above the diagonal may be left out.

    Args:
      accuracy: :math:`R`, as for :func:`average_accuracy`. All columns but the last one
        are read.

    Returns:
      The mean loss, in the unit of ``accuracy``; shape ``(...)``, floating. It is NaN
      if an earlier task is missing in the last row, or in all rows before it.

    Raises:
      ValueError: if ``accuracy`` isn't square in its last two axes, or has fewer than
        two tasks.
      TypeError: if it isn't an array of real numbers.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax.metrics import forgetting
      >>> accuracy = jnp.array([[0.75, 0.5], [0.5, 0.8]])
      >>> print(forgetting(accuracy))
      0.25

    References:
      Chaudhry et al., `Riemannian Walk for Incremental Learning
      <https://arxiv.org/abs/1801.10112>`_, 2018: Equation 3.

    .. seealso:: :func:`backward_transfer`
    """
    matrix = _matrix(accuracy, 2)
    best = jnp.nanmax(matrix[..., :-1, :], axis=-2)
    return jnp.mean((best - matrix[..., -1, :])[..., :-1], axis=-1)


def learning_accuracy(accuracy: jax.typing.ArrayLike) -> jax.Array:
    r"""Computes the mean accuracy on each task just after it is learned (LA).

    .. math:: \mathrm{LA} = \frac{1}{T} \sum_{j=1}^{T} R_{j,j}

    Pass ``accuracy[..., -10:, -10:]`` for only the last ten tasks. If it falls from the
    first tasks to the last, the network loses plasticity.

    Args:
      accuracy: :math:`R`, as for :func:`average_accuracy`. Its diagonal is read.

    Returns:
      The mean, in the unit of ``accuracy``; shape ``(...)``, floating. It is NaN if an
      entry that it reads is.

    Raises:
      ValueError: if ``accuracy`` isn't square in its last two axes, or has no task.
      TypeError: if it isn't an array of real numbers.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax.metrics import learning_accuracy
      >>> accuracy = jnp.array([[0.75, 0.5], [0.5, 0.25]])
      >>> print(learning_accuracy(accuracy))
      0.5

    References:
      Riemer et al., `Learning to Learn without Forgetting by Maximizing Transfer and
      Minimizing Interference <https://arxiv.org/abs/1810.11910>`_, 2019.
    """
    diagonal = jnp.diagonal(_matrix(accuracy, 1), axis1=-2, axis2=-1)
    return jnp.mean(diagonal, axis=-1)


def _matrix(accuracy: jax.typing.ArrayLike, fewest: int) -> jax.Array:
    matrix = _real("accuracy", accuracy)
    shape = matrix.shape
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < fewest:
        raise ValueError(
            "accuracy must have a row and a column for each of at least"
            f" {fewest} {'task' if fewest == 1 else 'tasks'}, got shape {shape}."
        )
    return matrix


def _real(name: str, value: jax.typing.ArrayLike) -> jax.Array:
    try:
        if value is None:  # NaN to JAX's older versions.
            raise TypeError
        array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"{name} must be an array of real numbers, got {value!r}."
        ) from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be an array of real numbers, got {array.dtype}.")
    return array.astype(_arrays.at_least_float32(array.dtype))
