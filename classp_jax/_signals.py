"""Gates that open at a signal of the loss, for unannounced task boundaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters


class GateSignalState(NamedTuple):
    """State of a gate that opens at a signal; see :func:`gate_signal`.

    Attributes:
      is_open: whether the gate is open; shape ``()``, Boolean.
      signal_state: the state of the signal, any pytree of arrays.
    """

    is_open: jax.Array
    signal_state: Any


class LossJumpState(NamedTuple):
    """State of the signal of :func:`loss_jump`: two running means, float32 scalars.

    Attributes:
      fast: the mean that follows the loss sooner.
      slow: the mean that follows the loss later.
      weight_fast: the total weight of the losses in ``fast``; below 1 at the beginning.
      weight_slow: the total weight of the losses in ``slow``.
    """

    fast: jax.Array
    slow: jax.Array
    weight_fast: jax.Array
    weight_slow: jax.Array


def gate_signal(
    init: Callable[[], Any], update: Callable[[jax.Array, Any], tuple[Any, Any]]
) -> optax.StatefulSchedule:
    """Makes an ``apply_decay`` that turns on at a signal of the loss and stays on.

    It is one of Optax's stateful schedules, which :func:`optax.inject_hyperparams`
    accepts in place of a number. The optimizer's ``update`` then needs the loss as
    ``value``. At the step that gives the signal, the gate is open already.

    ``opt_state.hyperparams["apply_decay"]`` says whether the gate is open, and so does
    ``optax.tree.get(opt_state, "is_open")``.

    If parameters are sharded over a mesh, Optax leaves the injected scalars on one
    device, and the second step compiles once more. To avoid that, replicate them:
    ``jax.tree.map(lambda x: x if x.committed else jax.device_put(x, NamedSharding(mesh,
    PartitionSpec())), opt_state)``.

    Args:
      init: a pure function without arguments. It returns the signal's state before the
        first step, any pytree of arrays and numbers.
      update: a pure function, called as ``update(value, state)`` with the loss of the
        step, a float32 scalar. It returns two things: whether the gate opens at this
        step, and the signal's new state, of the same dtypes and shapes. The former is a
        scalar, a Boolean or a number; 0 and NaN don't open the gate.

    Returns:
      An :class:`optax.StatefulSchedule` with the state :class:`GateSignalState`. Its
      value is a Boolean scalar.

    Raises:
      TypeError: if ``init`` or ``update`` isn't a function; in the optimizer's
        ``update``, without ``value``, or if the signal changes its state's dtypes.
      ValueError: in the optimizer's ``update``, if ``value`` or what the signal
        returns isn't a scalar, or the signal changes its state's shapes.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax import classp, gate_signal
      >>> rises = gate_signal(
      ...     init=lambda: jnp.inf, update=lambda value, last: (value > last, value)
      ... )
      >>> solver = optax.inject_hyperparams(classp, static_args="power")(
      ...     learning_rate=0.1, apply_decay=rises
      ... )
      >>> params = jnp.ones(2)
      >>> opt_state = solver.init(params)
      >>> for loss in (0.5, 0.3, 4.0, 0.5):
      ...     updates, opt_state = solver.update(params, opt_state, params, value=loss)
      ...     print(opt_state.hyperparams["apply_decay"])
      False
      False
      True
      True

    .. seealso:: :func:`loss_jump`, :func:`decay_gate`
    """
    for name, function in dict(init=init, update=update).items():
        if not callable(function):
            raise TypeError(f"{name} must be a function, got {function!r}.")
    return _GateSignal(init, update)


class _GateSignal:
    """The :class:`optax.StatefulSchedule` of :func:`gate_signal`."""

    def __init__(
        self,
        init_signal: Callable[[], Any],
        update_signal: Callable[[jax.Array, Any], tuple[Any, Any]],
    ):
        self._init_signal = init_signal
        self._update_signal = update_signal

    def init(self) -> GateSignalState:
        # Without weak types, which the first step would change and compile again.
        start = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.result_type(x)), self._init_signal()
        )
        return GateSignalState(jnp.zeros([], jnp.bool_), start)

    def update(
        self,
        state: GateSignalState,
        *,
        value: jax.typing.ArrayLike | None = None,
        **extra_args: Any,
    ) -> GateSignalState:
        del extra_args
        if value is None:
            raise TypeError(
                "The gate opens at a signal of the loss: pass value to update. Flax's"
                " TrainState.apply_gradients doesn't hand it on: call tx.update."
            )
        _hyperparameters.check_scalar("value", value)
        opens, signal_state = self._update_signal(
            jnp.asarray(value, jnp.float32), state.signal_state
        )
        _hyperparameters.check_scalar("What the signal returns", opens)
        opens = jnp.asarray(opens)
        return GateSignalState(
            state.is_open | ((opens != 0) & ~jnp.isnan(opens)),
            jax.tree.map(_like, state.signal_state, signal_state),
        )

    def __call__(self, state: GateSignalState, **extra_args: Any) -> jax.Array:
        if not isinstance(state, GateSignalState):
            raise TypeError(
                "A gate that opens at a signal has a state, so it must be injected:"
                " optax.inject_hyperparams(classp)(..., apply_decay=loss_jump())."
            )
        # Optax asks for the value of a step before it updates the state, and in init.
        is_step = extra_args.get("value") is not None
        return (self.update(state, **extra_args) if is_step else state).is_open


def _like(before: jax.Array, after: Any) -> jax.Array:
    """A leaf of the signal's state, of the dtype it had."""
    dtype = jnp.result_type(before, after)
    if dtype != before.dtype:
        raise TypeError(
            f"A signal must keep its state's dtypes: {before.dtype} became {dtype}."
        )
    if jnp.shape(after) != jnp.shape(before):
        raise ValueError(
            f"A signal must keep its state's shapes: {jnp.shape(before)} became"
            f" {jnp.shape(after)}."
        )
    return jnp.asarray(after, dtype)


def loss_jump(
    ratio: float = 2.0, margin: float = 0.1, fast: float = 0.9, slow: float = 0.99
) -> optax.StatefulSchedule:
    r"""Makes an ``apply_decay`` that turns on when the loss jumps, and stays on.

    The loss jumps when the task changes, so this is for unannounced task boundaries.
    Pass it to :func:`optax.inject_hyperparams`. The optimizer's ``update`` then needs
    the loss as ``value``. At the step of the jump, the gate is open already.

    It keeps two running means of the loss :math:`\ell_t`, with decays :math:`\beta_f <
    \beta_s`, both corrected for the bias of their start. The gate opens when

    .. math::

      \bar\ell^{\,f}_t > \bar\ell^{\,s}_t + (r - 1) \, |\bar\ell^{\,s}_t| + m

    For a loss that isn't negative, the right-hand side is :math:`r` times the slow mean
    plus the margin. A falling loss keeps the gate closed. So does a noisy one, since
    the fast mean, too, is over several batches. The margin keeps the gate closed while
    the loss is near zero. A loss that isn't finite is left out.

    Args:
      ratio: :math:`r \ge 1`; a Python number.
      margin: :math:`m \ge 0`, in units of the loss; a Python number.
      fast: :math:`\beta_f`, from 0 to below ``slow``; a Python number.
      slow: :math:`\beta_s`, below 1; a Python number.

    Returns:
      An :class:`optax.StatefulSchedule`, as :func:`gate_signal` makes them, whose
      signal has the state :class:`LossJumpState`.

    Raises:
      ValueError: if ``ratio`` is below 1 or ``margin`` below 0, one of the four isn't
        finite, or ``0 <= fast < slow < 1`` doesn't hold.
      TypeError: if one of them isn't a Python number; in the optimizer's ``update``,
        without ``value``.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax import classp, loss_jump
      >>> solver = optax.inject_hyperparams(classp, static_args="power")(
      ...     learning_rate=0.1, apply_decay=loss_jump()
      ... )
      >>> params = jnp.ones(2)
      >>> opt_state = solver.init(params)
      >>> for step, loss in enumerate(100 * [0.2] + 2 * [5.0]):
      ...     updates, opt_state = solver.update(params, opt_state, params, value=loss)
      ...     if step in (0, 99, 100):
      ...         print(step, opt_state.hyperparams["apply_decay"])
      0 False
      99 False
      100 True

    .. seealso:: :func:`gate_signal`
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
        loss: jax.Array, state: LossJumpState
    ) -> tuple[jax.Array, LossJumpState]:
        def follow(mean: jax.Array, weight: jax.Array, decay: float) -> Any:
            weight = decay * weight + (1 - decay)
            share = (1 - decay) / weight  # Not times a difference, which may overflow.
            return (1 - share) * mean + share * loss, weight

        new_fast, weight_fast = follow(state.fast, state.weight_fast, fast)
        new_slow, weight_slow = follow(state.slow, state.weight_slow, slow)
        new = LossJumpState(new_fast, new_slow, weight_fast, weight_slow)
        finite = jnp.isfinite(loss)
        state = jax.tree.map(lambda n, s: jnp.where(finite, n, s), new, state)
        bound = state.slow + (ratio - 1) * jnp.abs(state.slow) + margin
        return finite & (state.fast > bound), state

    return gate_signal(init_fn, update_fn)


def _check_python_number(name: str, value: Any) -> None:
    # Only Python's own: they are constants of the compiled step.
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a Python number, got {value!r}.")
    _hyperparameters.check_number(name, value)
