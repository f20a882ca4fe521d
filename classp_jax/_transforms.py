"""The three parts of CLASSP, each an Optax transformation of its own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from classp_jax import _boxes, _factored, _hyperparameters
from classp_jax._hyperparameters import initial_count


class ThresholdMaskState(NamedTuple):
    """State of :func:`threshold_mask`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      inner_state: the state of the inner transformation.
    """

    count: jax.Array  # type: ignore[assignment]
    inner_state: optax.OptState


class ScaleByAccumulatedPowerNormState(NamedTuple):
    """State of :func:`scale_by_accumulated_power_norm`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      grad_sum: the sum of ``|g|^p`` so far, shaped like the parameters; 4 bytes a
        weight unless another accumulator dtype was asked for. Of a factored tensor a
        :class:`FactoredSum` of the sums over rows and columns.
    """

    count: jax.Array  # type: ignore[assignment]
    grad_sum: optax.Updates


class DecayGateState(NamedTuple):
    """State of :func:`decay_gate`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      inner_state: the state of the inner transformation.
    """

    count: jax.Array  # type: ignore[assignment]
    inner_state: optax.OptState


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

    is_open = passes if scope == "element" else _any_passes
    return mask_updates(absolute_or_relative(relative), is_open, threshold, inner)


def scale_by_accumulated_power_norm(
    power: float | jax.Array = 1.0,
    eps: optax.ScalarOrSchedule = 1e-5,
    *,
    include_current: bool = True,
    factored: bool = False,
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

    With ``factored`` the sum takes next to no memory. Of a matrix only the sums over
    each row, :math:`R_i`, and over each column, :math:`C_j`, of all earlier
    :math:`|g|^p` are kept, exactly. What a weight's own past may have been is taken
    from these; the present, which is known, is added:

    .. math::

      s_{t,ij} = \frac{R_i C_j}{\sum_k R_k} + |g_{t,ij}|^p

    The columns of any other tensor are its last axis, and its rows all the others.
    Vectors and scalars have their sum in full.

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
      accumulator_dtype: a floating dtype for the sum. By default float32, also for
        float16 and bfloat16 parameters, and float64 for float64 ones: a bfloat16 sum
        of equal terms stops growing after 256 of them.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`ScaleByAccumulatedPowerNormState`: one accumulator a weight, 4 bytes by
      default, or hardly any. Updates keep the gradient's dtype.

    Raises:
      ValueError: if ``power`` or ``eps`` is not above 0, not finite or not a scalar,
        each in float32; in ``init`` and ``update``, if a tensor is complex.
      TypeError: if ``power`` is no number, ``eps`` neither a number nor a schedule,
        ``include_current`` or ``factored`` not a bool, or ``accumulator_dtype`` not a
        floating dtype.

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
    return accumulate_and_scale(
        power, power, eps, include_current, factored, accumulator_dtype
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
        injected value or a schedule of either. :func:`optax.inject_hyperparams`
        keeps a Python bool static: inject a number or ``jnp.asarray(False)``.

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
            is_open = jnp.asarray(is_open, jnp.bool_)
            updates = jax.tree.map(
                lambda u, g: jnp.where(is_open, u, g), decayed, updates
            )
        count = optax.safe_increment(state.count)
        return updates, DecayGateState(count, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def mask_updates(
    bound_of: Callable[[jax.Array, Any], Any],
    is_open: Callable[[jax.Array, Any], jax.Array],
    threshold: optax.ScalarOrSchedule,
    inner: optax.GradientTransformation | None = None,
    tells_inner: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Lays the mask ``is_open(update, bound)`` over the updates of ``inner``.

    ``bound_of(update, threshold)`` is a scalar for each tensor, or None. With
    ``tells_inner`` the transformation within is given them as the extra argument
    ``bounds``, so that its sum takes in what passes and nothing else.
    """
    _hyperparameters.check_not_negative("threshold", threshold)
    inner = optax.with_extra_args_support(inner or optax.identity())

    def init_fn(params: optax.Params) -> ThresholdMaskState:
        refuse_complex(params)
        return ThresholdMaskState(initial_count(params), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: ThresholdMaskState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ThresholdMaskState]:
        refuse_complex(updates)
        theta = _hyperparameters.at_step("threshold", threshold, state.count)
        grads = jax.tree.map(jnp.asarray, updates)
        bounds = jax.tree.map(lambda g: bound_of(g, theta), grads)
        if tells_inner:
            extra_args = extra_args | dict(bounds=bounds)
        updates, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        updates = jax.tree.map(
            lambda g, bound, u: _masked(is_open, g, bound, u), grads, bounds, updates
        )
        count = optax.safe_increment(state.count)
        return updates, ThresholdMaskState(count, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def absolute_or_relative(relative: bool) -> Callable[[jax.Array, Any], Any]:
    """What the squares of a tensor must exceed at a threshold; None where that is 0.

    At a threshold of 0 the square must not decide: it underflows where the gradient
    doesn't. One known at run time alone is -1 then, which every square exceeds.
    """
    _hyperparameters.check_static_bool("relative", relative)

    def bound_of(g: jax.Array, theta: Any) -> Any:
        if isinstance(theta, float) and theta == 0:
            return None
        dtype = at_least_float32(g.dtype)
        bound = theta = jnp.asarray(theta, dtype)
        if relative:
            bound = theta * _mean_square(g.astype(dtype))
        return jnp.where(theta == 0, -1, bound)

    return bound_of


def passes(g: jax.Array, bound: jax.Array | None) -> jax.Array:
    """Which elements of an update are finite and have a square above a bound."""
    g = g.astype(at_least_float32(g.dtype))
    finite = jnp.abs(g) < jnp.inf
    return finite if bound is None else finite & (jnp.square(g) > bound)


def _any_passes(g: jax.Array, bound: jax.Array | None) -> jax.Array:
    return jnp.isfinite(g) & jnp.any(passes(g, bound))


# Here and below, one trace serves all tensors of a shape and dtype.
@functools.partial(jax.jit, static_argnums=0)
def _masked(
    is_open: Callable[[jax.Array, Any], jax.Array],
    g: jax.Array,
    bound: Any,
    u: jax.Array,
) -> jax.Array:
    return _select(is_open(g, bound), u, 0)


def _select(
    mask: jax.Array, x: jax.Array, otherwise: jax.typing.ArrayLike
) -> jax.Array:
    """``jnp.where``, without the function call that it adds to the program."""
    return jax.lax.select(mask, x, jnp.full_like(x, otherwise))


def _mean_square(x: jax.Array) -> jax.Array:
    """The mean square of a tensor's finite elements."""

    def masked(x: jax.Array) -> jax.Array:
        finite = jnp.abs(x) < jnp.inf
        total = jnp.sum(jnp.square(x), where=finite)
        return total / jnp.maximum(jnp.sum(finite, dtype=x.dtype), 1)

    def plain_first(x: jax.Array) -> jax.Array:
        total = jnp.vdot(x, x)
        mean: jax.Array = jax.lax.cond(
            jnp.isfinite(total), lambda: total / x.size, lambda: masked(x)
        )
        return mean

    # XLA's CPU backend takes three times as long for a masked sum as for a plain one;
    # others read the tensor once for both.
    if x.size <= _factored.BLOCK or jax.device_count() > 1:
        return masked(x)
    mean: jax.Array = jax.lax.platform_dependent(x, cpu=plain_first, default=masked)
    return mean


def accumulate_and_scale(
    sum_power: float | jax.Array,
    root_power: float | jax.Array,
    eps: optax.ScalarOrSchedule,
    include_current: bool,
    factored: bool,
    accumulator_dtype: jax.typing.DTypeLike | None,
    keeps_nonfinite: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Divides by the ``root_power``-th root of a sum of ``sum_power``-th powers.

    Its ``update`` takes ``bounds``, as :func:`mask_updates` hands them on, for sums
    that only take in what passes. An element that isn't finite, or whose power
    isn't, counts as a gradient of 0, unless ``keeps_nonfinite``.
    """
    _hyperparameters.check_positive("eps", eps)
    _hyperparameters.check_static_bool("factored", factored)
    _hyperparameters.check_floating_dtype("accumulator_dtype", accumulator_dtype)
    sum_power, root_power = _static(sum_power), _static(root_power)

    def init_fn(params: optax.Params) -> ScaleByAccumulatedPowerNormState:
        refuse_complex(params)

        first = next(iter(jax.tree.leaves(params)), None)

        def zeros(p: jax.typing.ArrayLike) -> _factored.Sum:
            dtype = accumulator_dtype
            if dtype is None:
                dtype = at_least_float32(jnp.result_type(p))
            return _factored.zeros(p, dtype, factored, first)

        sums = _factored.in_boxes(jax.tree.map(zeros, params))
        return ScaleByAccumulatedPowerNormState(initial_count(params), sums)

    accumulate = _jitted(_accumulate, power=sum_power)
    scale = _jitted(_scale, power=sum_power, root=root_power)

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAccumulatedPowerNormState,
        params: optax.Params | None = None,
        *,
        bounds: optax.Updates | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAccumulatedPowerNormState]:
        del params, extra_args
        refuse_complex(updates)
        epsilon = _hyperparameters.at_step("eps", eps, state.count)
        structure, updates = jax.tree.structure(updates), _boxes.unbox(updates)
        if bounds is None:
            bounds = jax.tree.map(lambda g: None, updates)
        # Two loops over the weights that share an array would have it stored. Scalars
        # from behind a barrier are others to the compiler, so that each loop computes
        # its own, which is faster.
        hidden = (_boxes.unbox(bounds), jnp.inf)
        bounds, infinity = jax.lax.optimization_barrier(hidden)  # type: ignore[no-untyped-call]

        # A None among the gradients is a weight without one: Algorithm 1, line 7.
        def sum_of(g: Any, s: _factored.Sum, bound: Any) -> _factored.Sum:
            if g is None:
                return s
            after: _factored.Sum = accumulate(
                g, s, bound, infinity, power=sum_power, keeps_nonfinite=keeps_nonfinite
            )
            return after

        def update_of(g: Any, before: _factored.Sum, after: _factored.Sum) -> Any:
            if g is None:
                return None
            return scale(
                g,
                before,
                after if include_current else None,
                epsilon,
                power=sum_power,
                root=root_power,
                keeps_nonfinite=keeps_nonfinite,
            )

        def is_none(x: Any) -> bool:
            return x is None

        before = sums_of(state)
        after = jax.tree.map(sum_of, updates, before, bounds, is_leaf=is_none)
        updates = jax.tree.map(update_of, updates, before, after, is_leaf=is_none)
        updates = jax.tree.unflatten(structure, jax.tree.leaves(updates))
        count = optax.safe_increment(state.count)
        return updates, with_sums(state._replace(count=count), after)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _accumulate(
    g: jax.Array,
    s: _factored.Sum,
    bound: jax.Array | None,
    infinity: jax.Array,
    power: Any,
    keeps_nonfinite: bool,
) -> _factored.Sum:
    """Algorithm 1, line 11, of a tensor: the sum with the present gradient in it."""
    dtype = _computed_in(g, s)

    def term_of(part: jax.Array) -> jax.Array:
        part = part.astype(dtype)
        if not keeps_nonfinite:
            part = _only_finite(part, power, infinity)
        term = _raise_to(part, power)
        return term if bound is None else _select(jnp.square(part) > bound, term, 0)

    if isinstance(s, _factored.FactoredSum):
        return _factored.add(s, term_of, g)
    total, term = s.astype(dtype), term_of(g)
    if keeps_nonfinite:
        return (total + term).astype(s.dtype)
    # Two operands to the last operation: XLA's CPU backend would compute the minimum
    # of a sum and a constant once more in the update's loop.
    largest = _factored.largest(s.dtype)
    total = _select(term < largest - total, total + term, largest)
    return total.astype(s.dtype)


def _scale(
    g: jax.Array,
    before: _factored.Sum,
    after: _factored.Sum | None,
    epsilon: jax.typing.ArrayLike,
    power: Any,
    root: Any,
    keeps_nonfinite: bool,
) -> jax.Array:
    """Algorithm 1, line 14, of a tensor, less the learning rate.

    Without ``after`` the divisor has the earlier gradients only, as in Equation 1.
    """
    dtype = _computed_in(g, before)
    gradient = g.astype(dtype)
    if not keeps_nonfinite:
        gradient = _only_finite(gradient, power)
    if after is None:
        total = _factored.of_each_weight(before, dtype)
    elif isinstance(after, jax.Array) and after.dtype == dtype:
        total = after
    else:  # The present is known better than the accumulator can hold it.
        total = _factored.of_each_weight(before, dtype)
        total = total + _raise_to(gradient, power)
        total = jnp.minimum(total, _factored.largest(dtype))
    # An eps that isn't known yet may be 0.
    x = jnp.maximum(jnp.asarray(epsilon, dtype) + total, _factored.smallest(dtype))
    return in_dtype_of(g, _divide_by_root(gradient, x, root))


@functools.cache
def _jit_with_static(function: Callable[..., Any], names: tuple[str, ...]) -> Any:
    return jax.jit(function, static_argnames=(*names, "keeps_nonfinite"))


def _jitted(function: Callable[..., Any], **powers: Any) -> Any:
    """A compiled function of which those powers that are Python numbers are static."""
    names = tuple(name for name, power in powers.items() if isinstance(power, float))
    return _jit_with_static(function, names)


def sums_of(state: ScaleByAccumulatedPowerNormState) -> Any:
    """The sums of a state: a tree like the parameters, of arrays and factored sums."""
    return _boxes.unbox(state.grad_sum)


def with_sums(
    state: ScaleByAccumulatedPowerNormState, sums: Any
) -> ScaleByAccumulatedPowerNormState:
    """A state with its sums replaced by those of a tree as :func:`sums_of` has it."""
    structure = jax.tree.structure(state.grad_sum)
    grad_sum = jax.tree.unflatten(structure, jax.tree.leaves(sums))
    return state._replace(grad_sum=grad_sum)


def _static(power: float | jax.Array) -> float | jax.Array:
    """A number as Python's own, not NumPy's; an injected value as it is."""
    return power if isinstance(power, jax.Array) else float(power)


def _computed_in(g: jax.Array, s: _factored.Sum) -> Any:
    dtype = jax.tree.leaves(s)[0].dtype
    return jnp.promote_types(dtype, at_least_float32(g.dtype))


def _only_finite(
    g: jax.Array, power: jax.typing.ArrayLike, infinity: jax.typing.ArrayLike = jnp.inf
) -> jax.Array:
    """0 for what isn't finite, or whose power isn't."""
    finite = jnp.abs(g) < jnp.asarray(infinity, g.dtype)
    if not (isinstance(power, float) and power <= 1):
        finite &= jnp.abs(g) < _largest_base(g.dtype, power)
    return _select(finite, g, 0)


def _raise_to(g: jax.Array, power: jax.typing.ArrayLike) -> jax.Array:
    """``|g|^power``."""
    if isinstance(power, float):
        if power == 1:
            return jnp.abs(g)
        if power == 2:
            return jnp.square(g)
        if power > 1:
            return jnp.power(jnp.abs(g), power)
    # Its derivative at 0 may be infinite, times that of abs NaN.
    is_zero = g == 0
    base = jnp.where(is_zero, 1, jnp.abs(g))
    return jnp.where(is_zero, 0, jnp.power(base, jnp.asarray(power, g.dtype)))


def _largest_base(dtype: jax.typing.DTypeLike, power: Any) -> Any:
    """Up to which numbers have a finite power, but for rounding."""
    largest = _factored.largest(dtype)
    if isinstance(power, float):
        return math.inf if power <= 1 else largest ** (1 / power)
    base = jnp.asarray(largest, dtype) ** (1 / jnp.maximum(power, 1).astype(dtype))
    return jnp.where(power <= 1, jnp.inf, base)


def _quotient(g: jax.Array, x: jax.Array, power: Any) -> jax.Array:
    if isinstance(power, float) and power == 1:
        return g / x
    if isinstance(power, float) and power == 2:
        return g * jax.lax.rsqrt(x)
    return _select(g != 0, g * jnp.power(x, -1 / power), 0)  # Also times infinity.


_by_static_power = jax.custom_jvp(_quotient, nondiff_argnums=(2,))
_by_traced_power = jax.custom_jvp(_quotient)


def _divide_by_root(g: jax.Array, x: jax.Array, power: Any) -> jax.Array:
    """``g / x^(1/power)``, 0 where g is; its derivatives don't overflow at small x."""
    if isinstance(power, float):
        quotient: jax.Array = _by_static_power(g, x, power)
    else:
        quotient = _by_traced_power(g, x, jnp.asarray(power, x.dtype))
    return quotient


def _quotient_and_change(
    g: jax.Array, x: jax.Array, power: Any, g_dot: jax.Array, x_dot: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # u times 1 / x: x^2 may underflow, and of (g / x) / x XLA makes g / x^2.
    largest = _factored.largest(x.dtype)
    u = _divide_by_root(g, x, power)
    # Finite, as a closed gate multiplies them by 0.
    by_g = jnp.minimum(_divide_by_root(jnp.ones_like(g), x, power), largest)
    by_x = jnp.clip(u * _divide_by_root(jnp.ones_like(x), x, 1.0), -largest, largest)
    return u, g_dot * by_g - x_dot * by_x / power


@_by_static_power.defjvp
def _by_static_power_jvp(power: float, primals: Any, tangents: Any) -> Any:
    g, x = primals
    return _quotient_and_change(g, x, power, *tangents)


@_by_traced_power.defjvp
def _by_traced_power_jvp(primals: Any, tangents: Any) -> Any:
    *_, x, power = primals
    *others, power_dot = tangents
    largest = _factored.largest(x.dtype)
    u, u_dot = _quotient_and_change(*primals, *others)
    by_power = jnp.clip(u * jnp.log(x) / jnp.square(power), -largest, largest)
    return u, u_dot + by_power * power_dot


def in_dtype_of(g: jax.Array, u: jax.Array) -> jax.Array:
    """An update in its gradient's dtype, or as it is if that has no fractions."""
    return u.astype(g.dtype) if jnp.issubdtype(g.dtype, jnp.floating) else u


def at_least_float32(dtype: jax.typing.DTypeLike) -> Any:
    """The dtype to compute in: float32 for the shorter ones."""
    if jnp.issubdtype(dtype, jnp.floating):  # Also those that promote to no other.
        return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)
    return jnp.promote_types(dtype, jnp.float32)


def wide_zeros(params: optax.Params) -> Any:
    """Zeros that lie as the parameters do, in at least float32."""
    return jax.tree.map(
        lambda p: _factored.zeros(p, at_least_float32(jnp.result_type(p)), False),
        params,
    )


def refuse_complex(params: optax.Params) -> None:
    """Raises a ``ValueError`` that names a complex leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.iscomplexobj(leaf):
            raise ValueError(
                "Parameters and gradients must be real;"
                f" {jax.tree_util.keystr(path) or 'this one'} is complex"
                f" ({jnp.result_type(leaf)})."
            )
