"""The three parts of CLASSP, each an Optax transformation of its own."""

from __future__ import annotations

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
    _hyperparameters.check_not_negative("threshold", threshold)
    _hyperparameters.check_static_bool("relative", relative)
    if not isinstance(scope, str) or scope not in ("element", "tensor"):
        raise ValueError(f"scope must be 'element' or 'tensor', got {scope!r}.")
    if inner is not None:
        _hyperparameters.check_transformation("inner", inner)

    return mask_updates(above(relative, scope), threshold, inner)


def scale_by_accumulated_power_norm(
    power: float = 1.0,
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
    update is 0. Nor does one add anything that would make the sum overflow.

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
      power: :math:`p > 0`; a Python number, as the compiled program depends on it
        (1 and 2 never call ``pow``).
      eps: :math:`\varepsilon > 0`, added to the sum; a number, an injected value or a
        schedule.
      include_current: whether the divisor includes the present gradient
        (Algorithm 1, line 14) or only the earlier ones (Equation 1).
      factored: whether to keep the sums of rows and columns alone, wherever these are
        fewer; a Python bool. Both stay as they are where a step would make one
        overflow.
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
      TypeError: if ``power`` is an array or a schedule, ``eps`` neither a number nor
        a schedule, ``include_current`` or ``factored`` not a bool, or
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
    _hyperparameters.check_static_positive("power", power)
    _hyperparameters.check_static_bool("include_current", include_current)
    every_finite = apart(relative=False, threshold=0.0)
    return accumulate_and_scale(
        power,
        power,
        eps,
        include_current,
        factored,
        accumulator_dtype,
        collects=every_finite,
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
        is_open = jnp.asarray(
            _hyperparameters.at_step("apply_decay", apply_decay, state.count), jnp.bool_
        )
        decayed, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        # A select fuses with the arithmetic around it; a branch would copy.
        updates = jax.tree.map(lambda u, g: jnp.where(is_open, u, g), decayed, updates)
        count = optax.safe_increment(state.count)
        return updates, DecayGateState(count, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def above(
    relative: bool, scope: Literal["element", "tensor"] = "element"
) -> Callable[[jax.Array, jax.typing.ArrayLike], jax.Array]:
    """The mask of an update at a threshold, as :func:`threshold_mask` has it."""

    def is_open(g: jax.Array, theta: jax.typing.ArrayLike) -> jax.Array:
        passes = _passes(g, relative, theta)(g)
        return jnp.isfinite(g) & jnp.any(passes) if scope == "tensor" else passes

    return is_open


def apart(
    relative: bool, threshold: optax.ScalarOrSchedule
) -> Callable[[jax.Array, jax.Array], Callable[[jax.Array], jax.Array]]:
    """A mask that the compiler computes apart from all others.

    Two loops over the weights that share a mask, or the update it was laid over, would
    have it stored; each computes its own faster. ``(update, count)`` gives the mask of
    any part of the update.
    """

    def mask(g: jax.Array, count: jax.Array) -> Callable[[jax.Array], jax.Array]:
        theta = _hyperparameters.at_step("threshold", threshold, count)
        bounds = (theta, jnp.inf)
        bounds = jax.lax.optimization_barrier(bounds)  # type: ignore[no-untyped-call]
        return _passes(g, relative, *bounds)

    return mask


def _passes(
    g: jax.Array,
    relative: bool,
    theta: jax.typing.ArrayLike,
    infinity: jax.typing.ArrayLike = jnp.inf,
) -> Callable[[jax.Array], jax.Array]:
    """Tells which elements of a part of an update are above its threshold."""
    dtype = at_least_float32(g.dtype)
    theta = bound = jnp.asarray(theta, dtype)
    if relative:
        wide = g.astype(dtype)
        finite = jnp.abs(wide) < infinity
        total = jnp.sum(jnp.square(wide), where=finite)
        bound = theta * (total / jnp.maximum(jnp.sum(finite, dtype=dtype), 1))

    def mask(part: jax.Array) -> jax.Array:
        part = part.astype(dtype)
        # At 0 the square must not decide: it underflows where the gradient doesn't.
        above_it = (jnp.square(part) > bound) | (theta == 0)
        return (jnp.abs(part) < infinity) & above_it

    return mask


def mask_updates(
    is_open: Callable[[jax.Array, jax.typing.ArrayLike], jax.Array],
    threshold: optax.ScalarOrSchedule,
    inner: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Lays the mask ``is_open(update, threshold)`` over the updates of ``inner``."""
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
        mask = jax.tree.map(lambda g: is_open(jnp.asarray(g), theta), updates)
        updates, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        updates = jax.tree.map(lambda m, u: jnp.where(m, u, 0), mask, updates)
        count = optax.safe_increment(state.count)
        return updates, ThresholdMaskState(count, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def accumulate_and_scale(
    sum_power: float,
    root_power: float,
    eps: optax.ScalarOrSchedule,
    include_current: bool,
    factored: bool,
    accumulator_dtype: jax.typing.DTypeLike | None,
    collects: Callable[[jax.Array, jax.Array], Callable[[jax.Array], jax.Array]] | None,
) -> optax.GradientTransformationExtraArgs:
    """Divides by the ``root_power``-th root of a sum of ``sum_power``-th powers.

    ``collects(g, count)`` gives a mask, for parts of g, of the elements that enter the
    sum; if given, it is for finite ones alone, and others make no step, nor do those
    whose power overflows.
    """
    _hyperparameters.check_positive("eps", eps)
    _hyperparameters.check_static_bool("factored", factored)
    _hyperparameters.check_floating_dtype("accumulator_dtype", accumulator_dtype)
    sum_power, root_power = float(sum_power), float(root_power)  # Not NumPy's.

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

    def update_fn(
        updates: optax.Updates,
        state: ScaleByAccumulatedPowerNormState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAccumulatedPowerNormState]:
        del params, extra_args
        refuse_complex(updates)
        epsilon = _hyperparameters.at_step("eps", eps, state.count)

        def computed_in(g: jax.typing.ArrayLike, s: _factored.Sum) -> Any:
            dtype = jax.tree.leaves(s)[0].dtype
            return jnp.promote_types(dtype, at_least_float32(jnp.result_type(g)))

        # A None among the gradients is a weight without one: Algorithm 1, line 7.
        def accumulate(
            g: jax.typing.ArrayLike | None, s: _factored.Sum
        ) -> _factored.Sum:
            if g is None:
                return s
            dtype, gradient = computed_in(g, s), jnp.asarray(g)
            is_collected = collects and collects(gradient, state.count)

            def power_of(part: jax.Array) -> jax.Array:
                return _raise_to(jnp.abs(part.astype(dtype)), sum_power)

            def term_of(part: jax.Array) -> jax.Array:
                term = power_of(part)
                mask = jnp.isfinite(term)
                if is_collected is not None:
                    mask &= is_collected(part)
                return jnp.where(mask, term, 0)

            # Algorithm 1, line 11.
            if isinstance(s, _factored.FactoredSum):
                return _factored.add(s, term_of, gradient)
            term = power_of(gradient)
            if is_collected is None:
                return (s.astype(dtype) + term).astype(s.dtype)
            # One that would overflow stays as it is.
            mask = is_collected(gradient)
            mask &= term < _largest(s.dtype) - s.astype(dtype)
            return (s.astype(dtype) + jnp.where(mask, term, 0)).astype(s.dtype)

        def scale(
            g: jax.typing.ArrayLike | None,
            before: _factored.Sum,
            after: _factored.Sum,
        ) -> jax.Array | None:
            if g is None:
                return None
            dtype = computed_in(g, before)
            gradient = jnp.asarray(g, dtype)
            if _factored.is_factored(before):
                s = _factored.of_each_weight(before, dtype)
                if include_current:
                    s = s + _raise_to(jnp.abs(gradient), sum_power)
            else:
                s = _factored.of_each_weight(
                    after if include_current else before, dtype
                )
            # Algorithm 1, line 14, less the learning rate.
            u = _divide_by_root(gradient, jnp.asarray(epsilon, dtype) + s, root_power)
            if collects is not None:
                # A gradient of 0 makes no step, even where eps has underflown.
                limit = _largest_base(dtype, sum_power)
                steps = (gradient != 0) & (jnp.abs(gradient) < limit)
                u = jnp.where(steps, u, 0)
            return u.astype(jnp.result_type(g))

        structure, updates = jax.tree.structure(updates), _boxes.unbox(updates)
        before = sums_of(state)
        after = jax.tree.map(accumulate, updates, before, is_leaf=lambda x: x is None)
        updates = jax.tree.map(
            scale, updates, before, after, is_leaf=lambda x: x is None
        )
        updates = jax.tree.unflatten(structure, jax.tree.leaves(updates))
        count = optax.safe_increment(state.count)
        return updates, with_sums(state._replace(count=count), after)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


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


def _raise_to(x: jax.Array, power: float) -> jax.Array:
    if power == 1:
        return x
    if power == 2:
        return jnp.square(x)
    if power < 1:  # Its derivative at 0 is infinite, times that of abs NaN.
        is_zero = x == 0
        return jnp.where(is_zero, 0, jnp.power(jnp.where(is_zero, 1, x), power))
    return jnp.power(x, power)


def _largest_base(dtype: jax.typing.DTypeLike, power: float) -> float:
    """Up to which numbers have a finite power, but for rounding."""
    return math.inf if power <= 1 else _largest(dtype) ** (1 / power)


def _largest(dtype: jax.typing.DTypeLike) -> float:
    return float(jnp.finfo(dtype).max)  # type: ignore[no-untyped-call]


def _divide_by_root(g: jax.Array, x: jax.Array, power: float) -> jax.Array:
    if power == 1:
        return g / x
    if power == 2:
        return g * jax.lax.rsqrt(x)
    return g * jnp.power(x, -1.0 / power)


def at_least_float32(dtype: jax.typing.DTypeLike) -> Any:
    """The dtype to compute in: float32 for the shorter ones."""
    if jnp.issubdtype(dtype, jnp.floating):  # Also those that promote to no other.
        return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)
    return jnp.promote_types(dtype, jnp.float32)


def wide_zeros(params: optax.Params) -> Any:
    """Zeros shaped like the parameters, in at least float32."""
    return jax.tree.map(
        lambda p: jnp.zeros_like(p, dtype=at_least_float32(jnp.result_type(p))), params
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
