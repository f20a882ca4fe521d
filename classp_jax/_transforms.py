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
    r"""Zeroes every update whose square is not strictly above a threshold.

    .. math::

      u_i \leftarrow \begin{cases}
        u_i & \text{if } u_i^2 > \theta \\ 0 & \text{otherwise} \end{cases}

    The square is taken in float32 for float16 and bfloat16 updates, so that it
    doesn't underflow. A threshold of 0 lets every finite update pass, however small.
    An element that isn't finite is never above the threshold.

    With ``relative``, the threshold is in units of the tensor's mean square at that
    step, so that it means the same to layers whose gradients differ in size:

    .. math::

      u_i^2 > \theta \cdot \frac{1}{n} \sum_{j=1}^{n} u_j^2

    The mean is over the tensor's finite elements, which reads the gradient a second
    time: 24 bytes a weight instead of 20 in a step of :func:`classp`. Where the mean
    square overflows, or every square underflows to 0, nothing of that tensor passes
    at that step, unless the threshold is 0. No square is above :math:`n` times the mean
    of :math:`n`, so from :math:`\theta = n` on nothing of a tensor of :math:`n`
    elements passes, but for rounding: at 10, for one, not the biases of ten classes.

    A tensor, to ``relative`` and to the scope ``"tensor"``, is what ``update`` sees.
    Inside :func:`jax.shard_map` that is a device's shard: update outside of it, with
    the gradients that it returns. Of layers stacked for a scan it is the whole stack:
    see :func:`per_layer`.

    With ``inner``, the mask is still read off the incoming updates but laid over the
    updates that ``inner`` makes of them: ``inner`` then sees, and may accumulate,
    every gradient.

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
      is one step counter, whatever the number of weights.

    Raises:
      ValueError: if ``threshold`` is negative, not finite or not a scalar, or
        ``scope`` is unknown; in ``init`` and ``update``, if a tensor is complex.
      TypeError: if ``threshold`` is neither a number nor a schedule, ``relative`` not
        a bool, or ``inner`` not a transformation.

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
    r"""Divides each update by the p-norm of its history.

    .. math::

      s_t = s_{t-1} + |g_t|^p, \qquad u_t = \frac{g_t}{(\varepsilon + s_t)^{1/p}}

    With ``include_current=False`` the divisor is
    :math:`(\varepsilon + s_{t-1})^{1/p}`. With :math:`p = 2` this is AdaGrad whose
    accumulator starts at :math:`\varepsilon`.

    An element that isn't finite, or whose power isn't, adds nothing to the sum, and its
    update is 0. A sum saturates at the largest number of its dtype; a divisor with the
    present gradient in it has that as it is, also where the accumulator's dtype can't
    hold it, so that with :math:`p \ge 1` no update is above 1 in size.

    With ``bounded`` the divisor is in units of :math:`\varepsilon^{1/p}`, what it is
    without history:

    .. math::

      u_t = \frac{g_t}{(1 + s_t / \varepsilon)^{1/p}}

    No update is then longer than its gradient, so a learning rate means what it means
    to SGD, which this is for :math:`\varepsilon \to \infty`.

    With ``factored`` the sum takes next to no memory. Of a matrix only the sums over
    each row, :math:`R_i`, and over each column, :math:`C_j`, of all earlier
    :math:`|g|^p` are kept, exactly. What a weight's own past may have been is taken
    from these; the present, which is known, is added:

    .. math::

      s_{t,ij} = \frac{R_i C_j}{\sum_k R_k} + |g_{t,ij}|^p

    The columns of any other tensor are its last axis, and its rows all the others.
    Vectors and scalars have their sum in full.

    With a ``memory`` a sum, in full or of rows or columns, forgets before it adds,
    :math:`s_t = (1 - 1/N)\, s_{t-1} + |g_t|^p`, at each step: also where a mask, a gate
    or NaN keeps the gradient out of it, but not where the gradient is None.

    The sums lie on devices as the tensor does, rows as its leading axes, columns as the
    last; :func:`optax.tree.map_params` needs to be told so (see :class:`FactoredSum`).
    Inside :func:`jax.shard_map` they are those of a device's shard: update outside of
    it, with the gradients that it returns. Layers stacked for a scan are one tensor
    unless :func:`per_layer` tells them apart.

    Args:
      power: :math:`p > 0`; a number, the same at every step. The compiled program of a
        Python number depends on it (1 and 2 never call ``pow``); an injected value
        always calls ``pow``, which is slower.
      eps: :math:`\varepsilon > 0`, added to the sum; a number, an injected value or a
        schedule.
      include_current: whether the divisor includes the present gradient
        (Algorithm 1, line 14) or only the earlier ones (Equation 1).
      factored: whether to keep the sums of rows and columns alone, wherever these are
        fewer; a Python bool. Each row and each column saturates by itself.
      bounded: whether to divide by the root of :math:`1 + s_t / \varepsilon`; a Python
        bool.
      memory: :math:`N > 1`, the steps in which a sum without gradients falls to 1/e; a
        number, an injected value or a schedule. None or infinity never forgets.
      accumulator_dtype: a floating dtype for the sum. By default float32, also for
        float16 and bfloat16 parameters, and float64 for float64 ones: a bfloat16 sum
        of equal terms stops growing after 256 of them, and with a ``memory`` above 512
        it never shrinks.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`ScaleByAccumulatedPowerNormState`: one accumulator a weight, 4 bytes by
      default, or hardly any. Updates keep the gradient's dtype.

    Raises:
      ValueError: if ``power`` or ``eps`` is not above 0, ``memory`` not above 1, or one
        not finite (but ``memory``) or not a scalar, each in float32; in ``init`` and
        ``update``, if a tensor is complex.
      TypeError: if ``power`` is no number, ``eps`` or ``memory`` neither a number nor a
        schedule, ``include_current``, ``factored`` or ``bounded`` not a bool, or
        ``accumulator_dtype`` not a floating dtype.

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
    r"""Hands on the updates of a transformation only while a gate is open.

    .. math::

      u_t = \begin{cases}
        \mathrm{inner}(g_t) & \text{while the gate is open} \\
        g_t & \text{while it is closed} \end{cases}

    ``inner`` runs and keeps its new state at every step, so a sum goes on being
    collected behind a closed gate. :func:`optax.conditionally_transform`, in
    contrast, holds the state back as well.

    Args:
      inner: the transformation behind the gate.
      apply_decay: whether the gate is open; a bool, a number (0 is closed), an
        injected value or a schedule of either, of which NaN is closed, too.
        :func:`optax.inject_hyperparams` keeps a Python bool static: inject a number or
        ``jnp.asarray(False)``.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`. Its own state
      is one step counter, whatever the number of weights.

    Raises:
      TypeError: if ``apply_decay`` is neither a bool, a number nor a schedule, or
        ``inner`` not a transformation.
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
      12, and Section 4.1, which trains on the first dataset with the decay off. (Read
      literally, Algorithm 1 makes no update at all while the decay is off.)
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
