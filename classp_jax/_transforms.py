"""The three parts of CLASSP, each an Optax transformation of its own."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters, _mask, _power_norm
from classp_jax._placement import initial_count
from classp_jax._states import DecayGateState


def threshold_mask(
    threshold: optax.ScalarOrSchedule,
    *,
    relative: bool = False,
    scope: Literal["element", "tensor"] = "element",
    inner: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Sets every update to zero whose square isn't strictly above a threshold.

    .. math::

      u_i \leftarrow \begin{cases}
        u_i & \text{if } u_i^2 > \theta \\ 0 & \text{otherwise} \end{cases}

    Squares of float16 and bfloat16 updates are computed in float32, so that they don't
    underflow. A threshold of 0 lets every finite update pass, however small. An element
    that isn't finite never passes.

    With ``relative``, the threshold is in units of the tensor's mean square at that
    step. It then means the same to layers whose gradients differ in size:

    .. math::

      u_i^2 > \theta \cdot \frac{1}{n} \sum_{j=1}^{n} u_j^2

    The mean is over the tensor's finite elements. It reads the gradient a second time,
    so that a step of :func:`classp` moves 24 bytes per weight instead of 20. If the
    mean square overflows, or all squares underflow to 0, nothing of that tensor passes
    at that step, unless the threshold is 0. A tensor of :math:`n` elements never passes
    a threshold of :math:`n` or more, but for rounding: no square is above :math:`n`
    times the mean. A threshold of 10 thus blocks the biases of ten classes.

    ``relative`` and the scope ``"tensor"`` take what ``update`` sees for one tensor.
    Inside :func:`jax.shard_map` that is a device's shard; call ``update`` outside of
    it. If layers are stacked for a scan, it is the whole stack: see :func:`per_layer`.

    With ``inner``, the incoming updates decide the mask, and the mask is applied to the
    updates of ``inner``. So ``inner`` sees, and may accumulate, every gradient.

    Args:
      threshold: :math:`\theta \ge 0`, compared with the squared update; a number, an
        injected value or a schedule.
      relative: whether :math:`\theta` is in units of the tensor's mean square; a
        Python bool.
      scope: ``"element"`` decides element by element; ``"tensor"`` opens a whole
        tensor if any of its elements is above the threshold.
      inner: the transformation to mask; :func:`optax.identity` if not given.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`. Its own state
      is one step counter.

    Raises:
      ValueError: if ``threshold`` is negative, not finite or not a scalar, or
        ``scope`` is unknown; in ``init`` and ``update``, if a tensor is complex.
      TypeError: if ``threshold`` is neither a number nor a schedule, ``relative`` isn't
        a bool, or ``inner`` isn't a transformation.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax import threshold_mask
      >>> mask = threshold_mask(0.25)
      >>> gradient = jnp.array([0.1, -0.5, 0.6])
      >>> updates, _ = mask.update(gradient, mask.init(gradient))
      >>> print(updates)
      [0.  0.  0.6]
      >>> mask = threshold_mask(1.0, relative=True)  # the mean square is 0.207
      >>> updates, _ = mask.update(gradient, mask.init(gradient))
      >>> print(updates)
      [ 0.  -0.5  0.6]

    References:
      Ludwig, `CLASSP <https://arxiv.org/abs/2405.09637>`_, 2024: Equation 1 and
      Algorithm 1, line 9.
    """
    if not isinstance(scope, str) or scope not in ("element", "tensor"):
        raise ValueError(f"scope must be 'element' or 'tensor', got {scope!r}.")
    if inner is not None:
        _hyperparameters.check_transformation("inner", inner)

    is_open = _mask.passes if scope == "element" else _mask.any_passes
    return _mask.mask_updates(
        _mask.absolute_or_relative(relative), is_open, threshold, inner
    )


def scale_by_accumulated_power_norm(
    power: float | jax.Array = 1.0,
    eps: optax.ScalarOrSchedule = 1e-5,
    *,
    include_current: bool = True,
    factored: bool = False,
    bounded: bool = False,
    memory: optax.ScalarOrSchedule | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides each update by the p-norm of its weight's gradients so far.

    .. math::

      s_t = s_{t-1} + |g_t|^p, \qquad u_t = \frac{g_t}{(\varepsilon + s_t)^{1/p}}

    With ``include_current=False`` the divisor is
    :math:`(\varepsilon + s_{t-1})^{1/p}`. With :math:`p = 2` this is AdaGrad whose
    accumulator starts at :math:`\varepsilon`.

    An element that isn't finite, or whose power isn't, adds nothing to the sum, and its
    update is 0. A sum saturates at the largest number of its dtype. The present
    gradient enters the divisor without rounding to that dtype, so that with
    :math:`p \ge 1` no update is above 1 in size.

    With ``bounded`` the divisor is in units of :math:`\varepsilon^{1/p}`, its value
    without history:

    .. math::

      u_t = \frac{g_t}{(1 + s_t / \varepsilon)^{1/p}}

    No update is then longer than its gradient, so a learning rate means what it means
    to SGD, the limit :math:`\varepsilon \to \infty`.

    With ``factored`` the sum takes next to no memory. A matrix then has exact sums of
    all earlier :math:`|g|^p` over each row, :math:`R_i`, and over each column,
    :math:`C_j`. They estimate each weight's past; the present gradient is added:

    .. math::

      s_{t,ij} = \frac{R_i C_j}{\sum_k R_k} + |g_{t,ij}|^p

    In any other tensor the last axis counts as columns, and all others as rows. Vectors
    and scalars keep one sum per weight.

    With a ``memory`` every sum fades at every step before it adds the present gradient:
    :math:`s_t = (1 - 1/N)\, s_{t-1} + |g_t|^p`. It also fades if a mask, a gate or NaN
    keeps the gradient out of it, but not if the gradient is None.

    Sums are sharded like the tensor: rows like its leading axes, columns like its last.
    :func:`optax.tree.map_params` needs to be told so (see :class:`FactoredSum`). Inside
    :func:`jax.shard_map` each device has sums of its own shard; call ``update`` outside
    of it. A stack of layers is one tensor, unless in :func:`per_layer`.

    Args:
      power: :math:`p > 0`; a number, the same at every step. A Python number is a
        constant of the compiled program, and 1 and 2 never call ``pow``. An injected
        value always calls ``pow``, which is slower.
      eps: :math:`\varepsilon > 0`, added to the sum; a number, an injected value or a
        schedule.
      include_current: whether the divisor includes the present gradient
        (Algorithm 1, line 14) or only the earlier ones (Equation 1).
      factored: whether to keep only sums of rows and columns, wherever these are fewer;
        a Python bool. Each row and each column saturates separately.
      bounded: whether to divide by the root of :math:`1 + s_t / \varepsilon`; a Python
        bool.
      memory: :math:`N > 1`, the steps in which a sum without gradients falls to 1/e; a
        number, an injected value or a schedule. With None or infinity it never fades.
      accumulator_dtype: a floating dtype for the sum. The default is float32, also for
        float16 and bfloat16 parameters, and float64 for float64 ones. A bfloat16 sum of
        equal terms stops growing after 256 of them, and with a ``memory`` above 512 it
        never shrinks.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`ScaleByAccumulatedPowerNormState`: one sum per weight, 4 bytes by default,
      or next to nothing if ``factored``. Updates keep the gradient's dtype.

    Raises:
      ValueError: if ``power`` or ``eps`` isn't above 0, ``memory`` isn't above 1, one
        of them other than ``memory`` isn't finite, or one isn't a scalar, each in
        float32; in ``init`` and ``update``, if a tensor is complex.
      TypeError: if ``power`` isn't a number, ``eps`` or ``memory`` is neither a number
        nor a schedule, ``include_current``, ``factored`` or ``bounded`` isn't a bool,
        or ``accumulator_dtype`` isn't a floating dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax import scale_by_accumulated_power_norm
      >>> scale = scale_by_accumulated_power_norm(power=1.0)
      >>> gradient = jnp.array([0.5, -2.0])
      >>> state = scale.init(gradient)
      >>> for _ in range(2):
      ...     updates, state = scale.update(gradient, state)
      ...     print(updates, state.grad_sum)
      [ 0.99998  -0.999995] [0.5 2. ]
      [ 0.499995   -0.49999875] [1. 4.]

    References:
      Ludwig, `CLASSP <https://arxiv.org/abs/2405.09637>`_, 2024: Equation 1 and
      Algorithm 1, lines 11 and 14. Factored sums: Shazeer and Stern, `Adafactor
      <https://arxiv.org/abs/1804.04235>`_, 2018: Section 3.
    """
    _hyperparameters.check_power("power", power)
    _hyperparameters.check_static_bool("include_current", include_current)
    return _power_norm.accumulate_and_scale(
        power,
        power,
        eps,
        include_current,
        factored,
        accumulator_dtype,
        bounded=bounded,
        memory=memory,
    )


def decay_gate(
    inner: optax.GradientTransformation, apply_decay: bool | optax.ScalarOrSchedule
) -> optax.GradientTransformationExtraArgs:
    r"""Applies a transformation only while a gate is open.

    .. math::

      u_t = \begin{cases}
        \mathrm{inner}(g_t) & \text{while the gate is open} \\
        g_t & \text{while it is closed} \end{cases}

    ``inner`` runs and updates its state at every step, so a gradient sum also grows
    while the gate is closed. :func:`optax.conditionally_transform`, in contrast, would
    then leave the state as it is.

    Args:
      inner: the transformation to gate.
      apply_decay: whether the gate is open; a bool, a number, an injected value or a
        schedule of either. 0 and NaN close the gate. :func:`optax.inject_hyperparams`
        doesn't inject a Python bool: pass a number or ``jnp.asarray(False)``.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`. Its own state
      is one step counter.

    Raises:
      TypeError: if ``apply_decay`` is neither a bool, a number nor a schedule, or
        ``inner`` isn't a transformation.
      ValueError: if ``apply_decay`` is not a scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax import decay_gate
      >>> gate = decay_gate(optax.scale(0.1), apply_decay=lambda step: step >= 1)
      >>> gradient = jnp.array([1.0])
      >>> state = gate.init(gradient)
      >>> for _ in range(2):
      ...     updates, state = gate.update(gradient, state)
      ...     print(updates)
      [1.]
      [0.1]

    References:
      Ludwig, `CLASSP <https://arxiv.org/abs/2405.09637>`_, 2024: Algorithm 1, line
      12, and Section 4.1, which trains on the first dataset with the decay off.
      Algorithm 1, read literally, makes no update at all while the decay is off.
    """
    _hyperparameters.check_transformation("inner", inner)
    _hyperparameters.check_switch("apply_decay", apply_decay)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> DecayGateState:
        return DecayGateState(initial_count(params), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: DecayGateState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, DecayGateState]:
        is_open = _hyperparameters.at_step("apply_decay", apply_decay, state.count)
        decayed, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        if isinstance(is_open, bool | float):
            updates = decayed if is_open else updates
        else:
            # A select fuses with the arithmetic around it; a branch would copy.
            gate = jnp.asarray(is_open)
            is_open = (gate != 0) & (gate == gate)  # NaN keeps it closed.
            updates = jax.tree.map(
                lambda u, g: jnp.where(is_open, u, g), decayed, updates
            )
        count = optax.safe_increment(state.count)
        return updates, DecayGateState(count, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
