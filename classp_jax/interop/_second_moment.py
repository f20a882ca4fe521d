"""CLASSP's sums, estimated from what Adam, Adafactor or AdaGrad know of gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from classp_jax import _hyperparameters, _paths
from classp_jax._arrays import at_least_float32

_Array: TypeAlias = np.ndarray[Any, Any]
_Shape: TypeAlias = tuple[int, ...]

_STATES = (
    optax.ScaleByAdamState,
    optax.ScaleByAmsgradState,
    optax.FactoredState,
    optax.ScaleByRssState,
)


def estimate_grad_sum(
    opt_state: optax.OptState,
    params: optax.Params,
    *,
    power: float = 1.0,
    steps: float | None = None,
    b2: float = 0.999,
    initial_accumulator_value: float = 0.1,
) -> optax.Params:
    r"""The sums that CLASSP would have, from the state of an adaptive optimizer.

    For a model that was trained by Adam, AdamW, Adafactor or AdaGrad, and is to be
    trained on by :func:`classp`::

      grad_sum = interop.estimate_grad_sum(adam_state, params)
      opt_state = interop.with_grad_sum(optimizer.init(params), grad_sum)

    From the sum of squares :math:`Q` of the gradients of :math:`T` steps the estimate
    is

    .. math::

      s = T \left( \frac{Q}{T} \right)^{p/2}
        = T^{1 - p/2}\, Q^{p/2}, \qquad
      Q = \begin{cases}
        T \nu / (1 - \beta_2^t) & \text{Adam, behind } t \text{ steps} \\
        T \nu & \text{Adafactor} \\
        q - q_0 & \text{AdaGrad} \end{cases}

    - AdaGrad's is the sum :math:`\sum |g|^2` itself, so that for :math:`p = 2` nothing
      is estimated.
    - For :math:`p < 2` no gradients with these squares have a larger
      :math:`\sum |g|^p` (Hölder's inequality). It is exact where those of a weight were
      all of one size; of normally distributed ones :math:`\sum |g|` is 0.80 of it, and
      of a weight with a gradient in one step of a hundred 0.1. For :math:`p > 2` none
      have a smaller one.
    - Adam's moment is a mean over the last :math:`1 / (1 - \beta_2)` steps or so, which
      is taken to stand for all :math:`T`. What is exact is that the sum of squares
      which forgets at that rate, :math:`\sum_k \beta_2^{t - k} g_k^2`, is
      :math:`\nu / (1 - \beta_2)`: that of ``steps`` :math:`= (1 - \beta_2^t) / (1 -
      \beta_2)` and :math:`p = 2`, and no more than the sum of all.
    - Adafactor's moment of a large tensor is a product of its rows' and columns'. As
      the sum of one with ``factored=True`` is, too, nothing more is lost there where
      both factor the same two axes, as they do a matrix's.

    All are in units of the gradients that this optimizer has seen: of the mean over its
    batch, clipped if they were, with the penalty's where weight decay stood in front.
    With a smaller batch the noise is larger, and so would have been the sum.

    Args:
      opt_state: an Optax state, however wrapped, in which each tensor has one second
        moment: that of :func:`optax.adam` and others on
        :func:`optax.scale_by_adam`, :func:`optax.amsgrad`, :func:`optax.adafactor` or
        :func:`optax.adagrad`. (:func:`optax.adamax` and :func:`optax.yogi` keep
        something else in a state of the same type.)
      params: the parameters that it is of, or their shapes.
      power: :math:`p > 0`, as the optimizer to come has it.
      steps: :math:`T > 0`; by default the number of updates that the state has counted,
        as many as CLASSP would have summed up. It is how strongly the old weights are
        kept: with fewer the new task is learned faster, and more is forgotten.
        AdaGrad's state counts none; they are needed there unless ``power`` is 2, and
        not read if it is.
      b2: :math:`\beta_2`, as Adam had it.
      initial_accumulator_value: :math:`q_0`, as AdaGrad had it.

    Returns:
      A tree like ``params``, of NumPy arrays of at least float32; for
      :func:`with_grad_sum`. Before that, what isn't of the old model can be added to
      it, such as zeros for a new head.

    Raises:
      ValueError: if ``opt_state`` has no second moment, two of one tensor, or one of no
        step, or a tensor's is missing, unexpected or misshapen; if AdaGrad's ``steps``
        are needed; if ``power`` or ``steps`` is not above 0 or not finite, or ``b2``
        not below 1.
      TypeError: if ``power`` or ``steps`` is no number.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax import classp, interop
      >>> params = {"kernel": jnp.zeros(2)}
      >>> adam, adam_state = optax.adam(0.1), optax.adam(0.1).init(params)
      >>> for _ in range(3):
      ...     gradient = {"kernel": jnp.array([1.0, -2.0])}
      ...     _, adam_state = adam.update(gradient, adam_state)
      >>> grad_sum = interop.estimate_grad_sum(adam_state, params)
      >>> print([f"{s:.3f}" for s in grad_sum["kernel"]])
      ['3.000', '6.000']
      >>> opt_state = interop.with_grad_sum(classp(0.1).init(params), grad_sum)

    References:
      Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_, 2015: Section 3. Shazeer
      and Stern, `Adafactor <https://arxiv.org/abs/1804.04235>`_, 2018: Algorithm 4.

    .. seealso:: :func:`grad_sum_from_torch`, :func:`classp_jax.collect`
    """
    _hyperparameters.check_power("power", power)
    if steps is not None:
        _hyperparameters.check_power("steps", steps)
        steps = float(steps)
    if not 0 <= b2 < 1:
        raise ValueError(f"b2 must be at least 0 and below 1, got {b2}.")
    shapes = {path: jnp.shape(p) for path, p in _paths.by_path(params).items()}

    def of_state(state: Any) -> dict[str, _Array]:
        if isinstance(state, optax.ScaleByRssState):
            return _of_adagrad(state, steps, power, initial_accumulator_value)
        if isinstance(state, optax.FactoredState):
            return _of_adafactor(state, shapes, steps, power)
        return _of_adam(state, steps, power, b2)

    states = _with_second_moment(opt_state)
    sums = _paths.merged("second moment", map(of_state, states))
    _paths.check_names("second moment", shapes, sums)
    for path, shape in shapes.items():
        if sums[path].shape != shape:
            raise ValueError(
                f"{path} must have a second moment of shape {shape}, got"
                f" {sums[path].shape}."
            )
    structure = jax.tree.structure(params)
    tree: optax.Params = jax.tree.unflatten(structure, [sums[path] for path in shapes])
    return tree


def of_squares(name: str, kept: Any, steps: Any, power: float) -> _Array:
    """The sum of a power over some steps, from the sum of squares."""
    squares = _wide(kept)
    if np.any(squares < 0):
        raise ValueError(f"{name} must have a sum of squares, but has values below 0.")
    if power == 2:
        return squares
    if steps is None:
        raise ValueError(
            f"For a power of {power}, {name} needs steps: AdaGrad's state counts none."
        )
    sums: _Array = steps ** (1 - power / 2) * squares ** (power / 2)
    return sums


def of_average(
    name: str, nu: Any, count: Any, steps: Any, power: float, b2: float
) -> _Array:
    """The sum of a power over some steps, by default all, from Adam's average."""
    nu, count = _wide(nu), np.asarray(count, np.float64)
    if np.any(count < 1):
        raise ValueError(f"The second moment of {name} is that of no step.")
    # Of stacked layers each has its own counter.
    count = np.expand_dims(count, tuple(range(count.ndim, nu.ndim)))
    number = np.asarray(count if steps is None else steps, nu.dtype)
    mean = nu / np.asarray(1 - b2**count, nu.dtype)
    return of_squares(name, number * mean, number, power)


def _with_second_moment(opt_state: optax.OptState) -> list[Any]:
    def is_one(node: Any) -> bool:
        return isinstance(node, _STATES)

    states = [*filter(is_one, jax.tree.leaves(opt_state, is_leaf=is_one))]
    if not states:
        raise ValueError(
            "There is no second moment (the state of Adam, AMSGrad, Adafactor or"
            f" AdaGrad) in this optimizer state: {jax.tree.structure(opt_state)}."
        )
    return states


def _of_adagrad(
    state: optax.ScaleByRssState, steps: Any, power: float, start: float
) -> dict[str, _Array]:
    return {
        path: of_squares(path, q - np.asarray(start, q.dtype), steps, power)
        for path, q in _paths.by_path(state.sum_of_squares).items()
    }


def _of_adam(state: Any, steps: Any, power: float, b2: float) -> dict[str, _Array]:
    (count,) = jax.tree.leaves(state.count)  # It may be in a variable.
    return {
        path: of_average(path, nu, count, steps, power, b2)
        for path, nu in _paths.by_path(state.nu).items()
    }


def _of_adafactor(
    state: optax.FactoredState, shapes: Mapping[str, _Shape], steps: Any, power: float
) -> dict[str, _Array]:
    (count,) = jax.tree.leaves(state.count)
    rows, columns, nus = map(_paths.by_path, (state.v_row, state.v_col, state.v))
    full = {
        path: _product(path, rows[path], columns[path], nu, shapes.get(path, ()))
        for path, nu in nus.items()
    }
    # Its average begins with the first square: there is nothing to correct.
    return {
        path: of_average(path, nu, count, steps, power, b2=0.0)
        for path, nu in full.items()
    }


def _product(path: str, rows: Any, columns: Any, nu: Any, shape: _Shape) -> _Array:
    """Adafactor's mean square of a tensor, of which it may know two projections."""
    rows, columns, full = map(_wide, (rows, columns, nu))
    if full.shape == shape or len(shape) < 2:
        return full
    second, largest = np.argsort(shape)[-2:]  # As Optax chooses, also among equals.
    expected = [shape[:axis] + shape[axis + 1 :] for axis in (largest, second)]
    if [rows.shape, columns.shape] != expected:
        raise ValueError(
            f"{path} must have second moments of shapes {expected[0]} and"
            f" {expected[1]}, got {rows.shape} and {columns.shape}."
        )
    rows, columns = np.expand_dims(rows, largest), np.expand_dims(columns, second)
    of_all = rows.mean(second, keepdims=True)
    product: _Array = rows * (columns / np.where(of_all > 0, of_all, 1))
    return product


def _wide(x: Any) -> _Array:
    """A NumPy array of at least float32."""
    x = np.asarray(x)
    array: _Array = x.astype(at_least_float32(x.dtype))
    return array
