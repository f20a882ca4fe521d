"""The momentum-filtered optimizer: Adam's step where the momentum is largest."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters, _placement
from classp_jax._arrays import in_dtype_of, refuse_complex
from classp_jax.baselines._decay import widened, with_weight_decay
from classp_jax.baselines._penalty import refuse_integers, wide_zeros


def scale_by_mofo(
    fraction: optax.ScalarOrSchedule = 0.15,
    b1: float | jax.Array = 0.9,
    b2: float | jax.Array = 0.999,
    eps: optax.ScalarOrSchedule = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam's update where a tensor's momentum is largest, 0 elsewhere.

    .. math::

      m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
      v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 \\
      u_i &= \begin{cases}
        \hat m_i / (\sqrt{\hat v_i} + \varepsilon)
          & \text{if } |m_i| \text{ is among the } k \text{ largest of its tensor} \\
        0 & \text{otherwise} \end{cases}

    :math:`\hat m` and :math:`\hat v` are corrected for their bias as in
    :func:`optax.adam`. Of :math:`n` weights, :math:`k` is
    :math:`\lfloor n \cdot \text{fraction} \rfloor`, but at least 1: with the default,
    one weight of a tensor of 13 or fewer moves at each step. All weights move that tie
    with the k-th. The moments of all weights see every gradient.

    Each tensor is filtered, also biases and scales; the authors' code leaves those out
    whose names have ``bias`` or ``norm`` in them. To do likewise, give these
    :func:`optax.adam` with :func:`optax.partition`.

    ``fraction`` is of what ``update`` sees for one tensor. Inside
    :func:`jax.shard_map` that is a device's shard. If layers are stacked for a scan, it
    is the whole stack, unless in :func:`per_layer`. No tensor is sorted: its k-th
    largest momentum is found by 31 counts (63 in float64). Where it is cut over
    devices, these send each other the counts only.

    Args:
      fraction: which share of a tensor's weights moves, above 0 and at most 1; with 1
        this is :func:`optax.scale_by_adam`. The source recommends 0.05 to 0.2. A
        number, an injected value or a schedule.
      b1: :math:`0 \le \beta_1 < 1`; a number or an injected value.
      b2: :math:`0 \le \beta_2 < 1`; a number or an injected value.
      eps: :math:`\varepsilon > 0`; a number, an injected value or a schedule.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`optax.ScaleByAdamState`, in at least float32: 8 bytes per weight. Updates
      keep the gradient's dtype. A gradient that isn't finite stays in the moments, as
      in Adam; its weight no longer moves. A gradient of None leaves its weights and
      their moments as they are.

    Raises:
      ValueError: if ``fraction`` isn't above 0 and at most 1, ``b1`` or ``b2`` isn't
        from 0 on and below 1, ``eps`` isn't above 0 and finite, or one of them isn't a
        scalar; in ``init`` and ``update``, if a tensor is complex.
      TypeError: if ``fraction`` or ``eps`` is neither a number nor a schedule, or
        ``b1`` or ``b2`` isn't a number; in ``update``, if a gradient is an integer.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax.baselines import scale_by_mofo
      >>> scale = scale_by_mofo(fraction=0.5)
      >>> gradient = jnp.array([0.1, -2.0, 3.0, 0.2])
      >>> updates, _ = scale.update(gradient, scale.init(gradient))
      >>> print(updates.round(3))
      [ 0. -1.  1.  0.]

    References:
      Chen et al., `MoFO: Momentum-Filtered Optimizer for Mitigating Forgetting in LLM
      Fine-Tuning <https://arxiv.org/abs/2407.20999>`_, 2024: Algorithm 1. The authors'
      code is at https://github.com/YChen-zzz/MoFO.

    .. seealso:: :func:`mofo`
    """
    _hyperparameters.check_fraction("fraction", fraction)
    _hyperparameters.check_below_1("b1", b1)
    _hyperparameters.check_below_1("b2", b2)
    _hyperparameters.check_positive("eps", eps)

    def init_fn(params: optax.Params) -> optax.ScaleByAdamState:
        refuse_complex(params)
        count = _placement.initial_count(params)
        return optax.ScaleByAdamState(count, wide_zeros(params), wide_zeros(params))

    def update_fn(
        updates: optax.Updates,
        state: optax.ScaleByAdamState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params, extra_args
        refuse_complex(updates)
        refuse_integers("gradient", updates)
        share = _hyperparameters.at_step("fraction", fraction, state.count)
        # Adam would drop the moments of a gradient that is None.
        grads = _where_given(updates, widened(updates), _zeros_like(state.mu))
        smallest = _hyperparameters.at_step("eps", eps, state.count)
        steps, after = optax.scale_by_adam(b1, b2, smallest).update(grads, state)
        mu = _where_given(updates, after.mu, state.mu)
        nu = _where_given(updates, after.nu, state.nu)

        def filtered(
            g: jax.Array | None, u: jax.Array, m: jax.Array
        ) -> jax.Array | None:
            if g is None:
                return None
            return in_dtype_of(jnp.asarray(g), jnp.where(_is_largest(m, share), u, 0))

        updates = jax.tree.map(
            filtered, updates, steps, mu, is_leaf=lambda x: x is None
        )
        return updates, optax.ScaleByAdamState(after.count, mu, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def mofo(
    learning_rate: optax.ScalarOrSchedule,
    fraction: optax.ScalarOrSchedule = 0.15,
    b1: float | jax.Array = 0.9,
    b2: float | jax.Array = 0.999,
    eps: optax.ScalarOrSchedule = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""The Momentum-Filtered Optimizer (MoFO): Adam that moves few weights at a time.

    It is :func:`scale_by_mofo`, :func:`optax.add_decayed_weights` and the learning
    rate:

    .. math::

      w_{t+1} = (1 - \alpha \lambda)\, w_t - \alpha\, u_t

    As in the authors' code, the weight decay shrinks all weights, also those that the
    filter keeps from moving. Their class has 0.1 for it, and their commands have 0.

    Args:
      learning_rate: :math:`\alpha`; a number, an injected value or a schedule.
      fraction: as for :func:`scale_by_mofo`.
      b1: as for :func:`scale_by_mofo`.
      b2: as for :func:`scale_by_mofo`.
      eps: as for :func:`scale_by_mofo`.
      weight_decay: :math:`\lambda \ge 0`; a number, an injected value or a schedule.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, whose state
      contains an :class:`optax.ScaleByAdamState`: 8 bytes per weight in float32.
      Updates keep the gradient's dtype; the arithmetic is in at least float32.
      ``update`` needs ``params``.

    Raises:
      ValueError: as :func:`scale_by_mofo`; if ``learning_rate`` isn't finite, or
        ``weight_decay`` is negative or not finite; in ``update``, without ``params``.
      TypeError: as :func:`scale_by_mofo`; if ``learning_rate`` or ``weight_decay`` is
        neither a number nor a schedule.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax.baselines import mofo
      >>> params = jnp.array([1.0, 1.0, 1.0, 1.0])
      >>> solver = mofo(0.5, fraction=0.5)
      >>> opt_state = solver.init(params)
      >>> for _ in range(2):
      ...     gradient = params * jnp.array([1.0, 2.0, 3.0, 4.0])
      ...     updates, opt_state = solver.update(gradient, opt_state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     print(params.round(1))
      [1.  1.  0.5 0.5]
      [1. 1. 0. 0.]

    References:
      Chen et al., `MoFO: Momentum-Filtered Optimizer for Mitigating Forgetting in LLM
      Fine-Tuning <https://arxiv.org/abs/2407.20999>`_, 2024: Algorithm 1.

    .. seealso:: :func:`scale_by_mofo`
    """
    scale = scale_by_mofo(fraction, b1, b2, eps)
    return with_weight_decay("mofo", learning_rate, weight_decay, scale)


def _is_largest(m: jax.Array, fraction: Any) -> jax.Array:
    """Which elements are among the largest by size; what isn't finite never is."""
    finite = jnp.isfinite(m)
    size = jnp.where(finite, jnp.abs(m), 0)
    if isinstance(fraction, float):
        count: Any = max(int(m.size * fraction), 1)
    else:
        share = m.size * jnp.asarray(fraction, size.dtype)
        count = jnp.clip(share.astype(jnp.int32), 1, m.size)
    return finite & _at_least_the_largest(size, count)


def _at_least_the_largest(size: jax.Array, count: Any) -> jax.Array:
    """Which elements, all at least 0, are no smaller than the ``count``-th largest.

    Of such the order is that of their bits as integers. The bits of that one are found
    one by one, from the highest on: to sort takes far longer than Adam's step.
    """
    bits = 8 * size.dtype.itemsize
    integer = jnp.dtype(f"uint{bits}")
    patterns = jax.lax.bitcast_convert_type(size, integer)

    def next_bit(i: jax.Array, threshold: jax.Array) -> jax.Array:
        bit = jnp.left_shift(jnp.ones([], integer), (bits - 2 - i).astype(integer))
        higher = threshold | bit
        return jnp.where(jnp.sum(patterns >= higher) >= count, higher, threshold)

    # In a shard_map it differs from device to device, as the tensor does.
    zero = jnp.where(False, jnp.sum(patterns, dtype=integer), jnp.zeros([], integer))
    threshold: jax.Array = jax.lax.fori_loop(0, bits - 1, next_bit, zero)
    return patterns >= threshold


def _where_given(updates: Any, tree: Any, otherwise: Any) -> Any:
    """A tree's leaves where there is a gradient, another's where that is None."""
    return jax.tree.map(
        lambda g, x, y: y if g is None else x,
        updates,
        tree,
        otherwise,
        is_leaf=lambda x: x is None,
    )


def _zeros_like(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)
