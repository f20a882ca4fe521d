"""CLASSP as its author's released PyTorch class computes it: a chain of the parts."""

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters, _mask, _power_norm, _transforms
from classp_jax._arrays import at_least_float32
from classp_jax._classp import chain_in_float32


def classp_released(
    learning_rate: optax.ScalarOrSchedule,
    threshold: optax.ScalarOrSchedule = 0.0,
    *,
    power: float | jax.Array = 1.0,
    eps: optax.ScalarOrSchedule = 1e-5,
    apply_decay: bool | optax.ScalarOrSchedule = 1.0,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""CLASSP as the author's released PyTorch class computes it.

    There is one mask per tensor, :math:`m_t = [\,b_t > \theta\,]`, where :math:`b_t` is
    1 if any squared gradient of the tensor is non-zero, and 0 otherwise:

    .. math::

      s_t = s_{t-1} + m_t |g_t|, \qquad
      w_{t+1} = w_t - \alpha\, m_t \begin{cases}
        g_t / (\varepsilon + s_t)^{1/p} & \text{while the decay is applied} \\
        g_t & \text{while it is not} \end{cases}

    A threshold below 1 therefore has no effect, and one of 1 or more stops all
    learning. ``power`` changes the root but not the sum. The paper's published numbers
    were made with this arithmetic.

    A gradient that isn't finite reaches the weight and the sum, as in the released
    class; :func:`classp` and :func:`classp_equation1` leave such elements out. Where
    denormal numbers are flushed to zero, as XLA does on a CPU, a tensor whose gradients
    are all below 1e-19 counts as zero.

    Args:
      learning_rate: as for :func:`classp`.
      threshold: as for :func:`classp`, but compared with :math:`b_t`.
      power: as for :func:`classp`, but used only for the root.
      eps: as for :func:`classp`.
      apply_decay: as for :func:`classp`; the released class calls it
        ``apply_scaling``.
      accumulator_dtype: as for :func:`classp`.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`. Its state is
      one sum per weight, 4 bytes by default.

    Raises:
      ValueError: as :func:`classp`.
      TypeError: as :func:`classp`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax import classp_released
      >>> gradient = jnp.array([0.5, 2.0])
      >>> for threshold in (0.9, 1.0):
      ...     solver = classp_released(0.5, threshold, apply_decay=False)
      ...     updates, _ = solver.update(gradient, solver.init(gradient))
      ...     print(updates)
      [-0.25 -1.  ]
      [-0. -0.]

    References:
      Ludwig, `CLASSP's released code <https://github.com/oswaldoludwig/CLASSP>`_.
    """
    _hyperparameters.check_power("power", power)

    mask = _mask.mask_updates(
        lambda g, theta: theta, _any_square_is_not_zero, threshold
    )
    scale = _power_norm.accumulate_and_scale(
        sum_power=1.0,
        root_power=power,
        eps=eps,
        include_current=True,
        factored=False,
        accumulator_dtype=accumulator_dtype,
        keeps_nonfinite=True,
    )
    gated = _transforms.decay_gate(scale, apply_decay)
    return optax.chain(mask, chain_in_float32(learning_rate, gated))


def _any_square_is_not_zero(g: jax.Array, theta: jax.typing.ArrayLike) -> jax.Array:
    """Whether a tensor passes the threshold of the released class."""
    # In the gradient's own dtype, a square of half the least number, or of less,
    # rounds to 0; the compiler may compute it in another.
    g = g if jnp.issubdtype(g.dtype, jnp.floating) else g.astype(jnp.float32)
    info = jnp.finfo(g.dtype)
    least_exponent = int(info.minexp) - int(info.nmant)
    wide = jnp.abs(g.astype(at_least_float32(g.dtype)))
    squares_to_0 = wide <= 2.0 ** ((least_exponent - 1) / 2)
    return jnp.any(~squares_to_0).astype(jnp.float32) > theta
