"""SC-AdaGrad: AdaGrad for strongly convex losses, which takes no root."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters, _placement, _sums
from classp_jax._arrays import in_dtype_of, largest_of, refuse_complex, smallest_of
from classp_jax._classp import chain_in_float32
from classp_jax._powers import divide, only_finite
from classp_jax.baselines._penalty import wide_zeros


class ScaleByScAdagradState(NamedTuple):
    """State of :func:`scale_by_sc_adagrad`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      sum_of_squares: the sum of the squared gradients so far, shaped like the
        parameters; 4 bytes per weight in float32.
    """

    count: jax.Array  # type: ignore[assignment]
    sum_of_squares: optax.Updates


def sc_adagrad(
    learning_rate: optax.ScalarOrSchedule,
    xi1: optax.ScalarOrSchedule = 0.1,
    xi2: optax.ScalarOrSchedule = 0.1,
) -> optax.GradientTransformationExtraArgs:
    r"""SC-AdaGrad, an AdaGrad that divides by the sum of squares, not by its root.

    .. math::

      v_t = v_{t-1} + g_t^2, \qquad
      w_{t+1} = w_t - \frac{\alpha \, g_t}{v_t + \xi_2 \, e^{-\xi_1 v_t}}

    Like :func:`classp` with :math:`p = 1` it divides by a sum over all steps, here of
    :math:`g^2` instead of :math:`|g|`. Nothing in it is told of tasks. While :math:`v`
    is small, a step is that of SGD with the learning rate :math:`\alpha / \xi_2`.

    It is a chain of :func:`scale_by_sc_adagrad` and
    :func:`optax.scale_by_learning_rate`, computed in at least float32 throughout.

    Args:
      learning_rate: :math:`\alpha`; a number, an injected value or a schedule.
      xi1: as for :func:`scale_by_sc_adagrad`.
      xi2: as for :func:`scale_by_sc_adagrad`.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`. Its state is
      one sum per weight, 4 bytes in float32. Updates keep the gradient's dtype.

    Raises:
      ValueError: as :func:`scale_by_sc_adagrad`, or if ``learning_rate`` isn't finite
        or not a scalar.
      TypeError: if a hyperparameter is neither a number nor a schedule.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax.baselines import sc_adagrad
      >>> def f(x): return jnp.sum(x ** 2)  # simple quadratic function
      >>> solver = sc_adagrad(learning_rate=1.0)
      >>> params = jnp.array([1., 2., 3.])
      >>> opt_state = solver.init(params)
      >>> for _ in range(3):
      ...  grad = jax.grad(f)(params)
      ...  updates, opt_state = solver.update(grad, opt_state, params)
      ...  params = optax.apply_updates(params, updates)
      ...  print('Objective function: {:.2E}'.format(f(params)))
      Objective function: 1.13E+01
      Objective function: 1.03E+01
      Objective function: 9.68E+00

    References:
      Mukkamala and Hein, `Variants of RMSProp and Adagrad with Logarithmic Regret
      Bounds <https://arxiv.org/abs/1706.05507>`_, 2017: Algorithm 2.

    .. seealso:: :func:`scale_by_sc_adagrad`
    """
    return chain_in_float32(learning_rate, scale_by_sc_adagrad(xi1, xi2))


def scale_by_sc_adagrad(
    xi1: optax.ScalarOrSchedule = 0.1, xi2: optax.ScalarOrSchedule = 0.1
) -> optax.GradientTransformationExtraArgs:
    r"""Divides each update by the sum of its squares so far, without a root.

    .. math::

      v_t = v_{t-1} + g_t^2, \qquad
      \delta_t = \xi_2 \, e^{-\xi_1 v_t}, \qquad
      u_t = \frac{g_t}{v_t + \delta_t}

    The damping :math:`\delta` is each weight's own and decays as :math:`v` grows. With
    ``xi1=0`` it is the constant :math:`\xi_2`. Without a root the update isn't free of
    the loss's scale: a loss of twice the size makes late updates half as long.

    An element that isn't finite, or whose square isn't, adds nothing to the sum, and
    its update is 0. A sum saturates at the largest number of its dtype.

    Args:
      xi1: :math:`\xi_1 \ge 0`, how fast the damping decays; a number, an injected value
        or a schedule. 0.1 in the authors' code.
      xi2: :math:`\xi_2 > 0`, the damping of a weight without history; a number, an
        injected value or a schedule. 0.1 in the authors' code.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`ScaleByScAdagradState`: one sum per weight, 4 bytes in float32. Sum and
      arithmetic are in at least float32; updates keep the gradient's dtype.

    Raises:
      ValueError: if ``xi1`` is negative, ``xi2`` isn't above 0, or one of them isn't
        finite or not a scalar, each in float32; in ``init`` and ``update``, if a tensor
        is complex.
      TypeError: if ``xi1`` or ``xi2`` is neither a number nor a schedule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax.baselines import scale_by_sc_adagrad
      >>> scale = scale_by_sc_adagrad(xi1=0.0, xi2=1.0)
      >>> gradient = jnp.array([1.0, -3.0])
      >>> state = scale.init(gradient)
      >>> for _ in range(2):
      ...     updates, state = scale.update(gradient, state)
      ...     print(updates, state.sum_of_squares)
      [ 0.5 -0.3] [1. 9.]
      [ 0.33333334 -0.15789473] [ 2. 18.]

    References:
      Mukkamala and Hein, `Variants of RMSProp and Adagrad with Logarithmic Regret
      Bounds <https://arxiv.org/abs/1706.05507>`_, 2017: Algorithm 2.

    .. seealso:: :func:`sc_adagrad`
    """
    _hyperparameters.check_not_negative("xi1", xi1)
    _hyperparameters.check_positive("xi2", xi2)

    def init_fn(params: optax.Params) -> ScaleByScAdagradState:
        refuse_complex(params)
        count = _placement.initial_count(params)
        return ScaleByScAdagradState(count, wide_zeros(params))

    def update_fn(
        updates: optax.Updates,
        state: ScaleByScAdagradState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByScAdagradState]:
        del params, extra_args
        refuse_complex(updates)
        decay = _hyperparameters.at_step("xi1", xi1, state.count)
        damping = _hyperparameters.at_step("xi2", xi2, state.count)

        def add(g: jax.typing.ArrayLike | None, v: jax.Array) -> jax.Array:
            if g is None:
                return v
            total = v + jnp.square(_finite(g, v))
            return jnp.minimum(total, largest_of(v.dtype)).astype(v.dtype)

        def scale(g: jax.typing.ArrayLike | None, v: jax.Array) -> jax.Array | None:
            if g is None:
                return None
            gradient = _finite(g, v)
            dtype = gradient.dtype
            xi1_t, xi2_t = (jnp.asarray(x, dtype) for x in (decay, damping))
            divisor = v + xi2_t * jnp.exp(-xi1_t * v)
            # A damping that isn't known yet may be 0.
            divisor = jnp.maximum(divisor, smallest_of(dtype))
            return in_dtype_of(jnp.asarray(g), divide(gradient, divisor))

        def of_each(function: Any, sums: optax.Updates) -> Any:
            return jax.tree.map(function, updates, sums, is_leaf=lambda x: x is None)

        sums = of_each(add, state.sum_of_squares)
        count = optax.safe_increment(state.count)
        return of_each(scale, sums), ScaleByScAdagradState(count, sums)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _finite(g: jax.typing.ArrayLike, v: jax.Array) -> jax.Array:
    """A gradient in the dtype to compute in; 0 where its square isn't finite."""
    g = jnp.asarray(g)
    return only_finite(g.astype(_sums.computed_in(g, v)), 2.0)
