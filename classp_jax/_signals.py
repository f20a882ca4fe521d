"""Gates that open by themselves, where nobody says that the task has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters


class GateSignal(NamedTuple):
    """When a gate opens: a schedule with a memory, of the loss instead of the step.

    Any pair of pure functions will do; see :func:`loss_jump`.

    Attributes:
      init: gives the state before the first step, any pytree.
      update: called as ``update(value, state)`` with the loss of the step, a scalar;
        returns whether the gate opens at this step, a Boolean scalar, and the state.
    """

    init: Callable[[], Any]
    update: Callable[[jax.Array, Any], tuple[jax.Array, Any]]


class LossJumpState(NamedTuple):
    """State of :func:`loss_jump`: two running means of the loss, float32 scalars.

    Attributes:
      fast: the one that follows sooner.
      slow: the one that follows later.
      weight_fast: of all losses in ``fast``, below 1 at the beginning.
      weight_slow: likewise.
    """

    fast: jax.Array
    slow: jax.Array
    weight_fast: jax.Array
    weight_slow: jax.Array


class OpenOnSignalState(NamedTuple):
    """State of :func:`open_on_signal`.

    Attributes:
      is_open: whether the gate is open; shape ``()``, Boolean.
      signal: the signal's state.
      inner_state: the optimizer's.
    """

    is_open: jax.Array
    signal: Any
    inner_state: optax.OptState


def loss_jump(
    ratio: float = 2.0, margin: float = 0.1, fast: float = 0.9, slow: float = 0.99
) -> GateSignal:
    r"""A signal for where the loss jumps, as it does when the task changes.

    With two running means of the loss :math:`\ell_t`, of decays :math:`\beta_f <
    \beta_s` and each without the bias of its start, the gate opens when

    .. math::

      \bar\ell^{\,f}_t > \bar\ell^{\,s}_t + (r - 1) \, |\bar\ell^{\,s}_t| + m

    so, of a loss that isn't negative, beyond :math:`r` times its slow mean. A falling
    loss keeps it closed, and so does a noisy one, as the fast mean, too, is
    of several batches; a loss near zero does by the margin. One that isn't finite is
    left out.

    Args:
      ratio: :math:`r \ge 1`; a Python number.
      margin: :math:`m \ge 0`, in the loss's unit; a Python number.
      fast: :math:`\beta_f`, from 0 to below ``slow``; a Python number.
      slow: :math:`\beta_s`, below 1; a Python number.

    Returns:
      A :class:`GateSignal`, with the state :class:`LossJumpState`.

    Raises:
      ValueError: if ``ratio`` is below 1 or ``margin`` below 0, one isn't finite, or
        not ``0 <= fast < slow < 1``.
      TypeError: if one of them is no Python number.

    Examples:
      >>> from classp_jax import loss_jump
      >>> signal = loss_jump()
      >>> state = signal.init()
      >>> for step, loss in enumerate(100 * [0.2] + 2 * [5.0]):
      ...     opens, state = signal.update(loss, state)
      ...     if step in (0, 99, 100):
      ...         print(step, opens)
      0 False
      99 False
      100 True

    .. seealso:: :func:`open_on_signal`
    """
    numbers = dict(ratio=ratio, margin=margin, fast=fast, slow=slow)
    for name, value in numbers.items():
        _check_python_number(name, value)
    if ratio < 1:
        raise ValueError(f"ratio must be at least 1, got {ratio!r}.")
    if margin < 0:
        raise ValueError(f"margin must be at least 0, got {margin!r}.")
    if not 0 <= fast < slow < 1:
        raise ValueError(
            "fast and slow must be 0 <= fast < slow < 1, got"
            f" fast={fast!r}, slow={slow!r}."
        )

    def init_fn() -> LossJumpState:
        return LossJumpState(*jnp.zeros(4, jnp.float32))

    def update_fn(
        value: jax.Array, state: LossJumpState
    ) -> tuple[jax.Array, LossJumpState]:
        loss = jnp.asarray(value, jnp.float32)

        def follow(mean: jax.Array, weight: jax.Array, decay: float) -> Any:
            weight = decay * weight + (1 - decay)
            return mean + (1 - decay) / weight * (loss - mean), weight

        new_fast, weight_fast = follow(state.fast, state.weight_fast, fast)
        new_slow, weight_slow = follow(state.slow, state.weight_slow, slow)
        new = LossJumpState(new_fast, new_slow, weight_fast, weight_slow)
        finite = jnp.isfinite(loss)
        state = jax.tree.map(lambda n, s: jnp.where(finite, n, s), new, state)
        bound = state.slow + (ratio - 1) * jnp.abs(state.slow) + margin
        return finite & (state.fast > bound), state

    return GateSignal(init_fn, update_fn)


def open_on_signal(
    inner_factory: Callable[[jax.Array], optax.GradientTransformation],
    signal: GateSignal,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose gate opens at a signal of the loss, and stays open.

    For a stream of tasks that changes unannounced. ``update`` takes the loss as
    ``value``, as those of Optax's that read it do. At the step that gives the signal
    the gate is open already.

    Args:
      inner_factory: makes the optimizer of the gate, a Boolean scalar, such as
        ``lambda gate: classp(0.1, apply_decay=gate)``. It is called in every update, so
        it must do nothing else; its state's structure mustn't depend on the gate. With
        :func:`optax.inject_hyperparams`, which keeps the values it began with, the gate
        must come from around: ``lambda gate: optax.inject_hyperparams(lambda
        learning_rate: classp(learning_rate, apply_decay=gate))(learning_rate=0.1)``.
      signal: when to open, such as :func:`loss_jump`.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`OpenOnSignalState`: a few scalars and the optimizer's own.

    Raises:
      TypeError: if ``inner_factory`` is no function that makes an Optax
        transformation, or ``signal`` no :class:`GateSignal`; in ``update``, without
        ``value``.
      ValueError: in ``update``, if ``value`` is no scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax import classp, loss_jump, open_on_signal
      >>> solver = open_on_signal(
      ...     lambda gate: classp(learning_rate=0.1, apply_decay=gate), loss_jump()
      ... )
      >>> params = jnp.ones(2)
      >>> opt_state = solver.init(params)
      >>> for step, loss in enumerate(100 * [0.2] + 2 * [5.0]):
      ...     updates, opt_state = solver.update(params, opt_state, params, value=loss)
      ...     if step in (0, 99, 100):
      ...         print(step, opt_state.is_open)
      0 False
      99 False
      100 True

    .. seealso:: :func:`loss_jump`, :func:`decay_gate`
    """
    if not callable(inner_factory):
        raise TypeError(
            "inner_factory must be a function of the gate that makes an optimizer, got"
            f" {inner_factory!r}."
        )
    if not isinstance(signal, GateSignal):
        raise TypeError(f"signal must be a GateSignal, got {signal!r}.")

    def with_gate(gate: jax.Array) -> optax.GradientTransformationExtraArgs:
        made = inner_factory(gate)
        _hyperparameters.check_transformation("inner_factory's result", made)
        return optax.with_extra_args_support(made)

    def init_fn(params: optax.Params) -> OpenOnSignalState:
        closed = jnp.zeros([], jnp.bool_)
        inner_state = with_gate(closed).init(params)
        closed, start = _hyperparameters.beside(params, (closed, signal.init()))
        return OpenOnSignalState(closed, start, inner_state)

    def update_fn(
        updates: optax.Updates,
        state: OpenOnSignalState,
        params: optax.Params | None = None,
        *,
        value: jax.typing.ArrayLike | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, OpenOnSignalState]:
        if value is None:
            raise TypeError("open_on_signal requires the loss: pass value to update.")
        _hyperparameters.check_scalar("value", value)
        opens, signal_state = signal.update(jnp.asarray(value), state.signal)
        is_open = state.is_open | opens
        updates, inner_state = with_gate(is_open).update(
            updates, state.inner_state, params, value=value, **extra_args
        )
        return updates, OpenOnSignalState(is_open, signal_state, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_python_number(name: str, value: Any) -> None:
    # Python's own alone: they are constants of the compiled step.
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a Python number, got {value!r}.")
    _hyperparameters.check_number(name, value)
