"""Estimates gradient sums from the state of Adam, Adafactor or AdaGrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from classp_jax import _hyperparameters, _paths, _states
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
    r"""Estimates the gradient sums of CLASSP from the state of an adaptive optimizer.

    Use it for a model that Adam, AdamW, Adafactor or AdaGrad has trained, before you
    continue with :func:`classp`::

      grad_sum = interop.estimate_grad_sum(adam_state, params)
      opt_state = interop.with_grad_sum(optimizer.init(params), grad_sum)

    With :math:`Q` the sum of the squared gradients of :math:`T` steps, the estimate is

    .. math::

      s = T \left( \frac{Q}{T} \right)^{p/2}
        = T^{1 - p/2}\, Q^{p/2}, \qquad
      Q = \begin{cases}
        T \nu / (1 - \beta_2^t) & \text{Adam, after } t \text{ steps} \\
        T \nu & \text{Adafactor} \\
        q - q_0 & \text{AdaGrad} \end{cases}

    - AdaGrad keeps :math:`\sum |g|^2` itself, so for :math:`p = 2` the result is exact.
    - For :math:`p < 2` the estimate is an upper bound of :math:`\sum |g|^p` (Hölder's
      inequality), and for :math:`p > 2` a lower bound. It is exact if all gradients of
      a weight have the same size. If they are normally distributed, :math:`\sum |g|` is
      0.80 of the estimate; with a gradient in one step of a hundred it is 0.1.
    - Adam's moment is a mean over about the last :math:`1 / (1 - \beta_2)` steps, which
      is assumed to represent all :math:`T`. The sum that fades at that rate,
      :math:`\sum_k \beta_2^{t - k} g_k^2 = \nu / (1 - \beta_2)`, is exact. The
      estimate is that sum for :math:`p = 2` and ``steps`` :math:`= (1 - \beta_2^t) / (1
      - \beta_2)`; it is never larger than the full sum.
    - Adafactor's moment of a large tensor is a product of row and column moments. So is
      a sum with ``factored=True``: nothing more is lost if both factor the same two
      axes, as they do for a matrix.

    The sums are in units of the gradients that the old optimizer has seen: means over
    its batch, clipped if they were, and including weight decay if that was chained in
    front. A smaller batch has more noise, and would have had a larger sum.

    Args:
      opt_state: an Optax state, with any wrappers, in which each tensor has one second
        moment: that of :func:`optax.adam` and others on :func:`optax.scale_by_adam`,
        :func:`optax.amsgrad`, :func:`optax.adafactor` or :func:`optax.adagrad`. Don't
        pass that of :func:`optax.adamax` or :func:`optax.yogi`, which keep something
        else in a state of the same type.
      params: the parameters of the state, or their shapes.
      power: :math:`p > 0`; the same as in the new optimizer.
      steps: :math:`T > 0`; the default is the number of updates that the state has
        counted. With fewer, the new task is learned faster and more is forgotten.
        AdaGrad doesn't count steps: pass them, unless ``power`` is 2, where they aren't
        read.
      b2: :math:`\beta_2`, the same as in Adam.
      initial_accumulator_value: :math:`q_0`, the same as in AdaGrad.

    Returns:
      A tree like ``params``, of NumPy arrays of at least float32, for
      :func:`with_grad_sum`. You can first add tensors that the old model didn't have,
      such as zeros for a new head.

    Raises:
      ValueError: if ``opt_state`` has no second moment, two for one tensor, or one that
        has counted no step; if a tensor's is missing, unexpected or misshapen; if
        AdaGrad's ``steps`` are missing; if ``power`` or ``steps`` isn't above 0 or not
        finite, or ``b2`` isn't below 1.
      TypeError: if ``power`` or ``steps`` isn't a number.

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
    _hyperparameters.check_below_1("b2", b2)
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
            " Pass steps=."
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
            f" AdaGrad) in this optimizer state, which {_states.holds(opt_state)}."
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
