"""CLASSP whose sums are of directions: a chain of the parts."""

import optax

from classp_jax import _gram, _transforms
from classp_jax._classp import chain_in_float32


def classp_gram(
    learning_rate: optax.ScalarOrSchedule,
    damping: optax.ScalarOrSchedule = 1.0,
    threshold: optax.ScalarOrSchedule = 0.0,
    *,
    exponent: float = 1.0,
    refresh_every: int | None = 10,
    max_dim: int = 1024,
    rank: int | None = 64,
    apply_decay: bool | optax.ScalarOrSchedule = 1.0,
    relative: bool = False,
    memory: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""CLASSP with a sum for each direction of a layer's inputs, in place of a weight.

    .. math::

      L_t = L_{t-1} + G_t G_t^\top, \qquad
      W_{t+1} = W_t - \alpha \left(I + \frac{L_t}{\kappa}\right)^{-q} G_t

    with :math:`G` the gradient of a matrix of inputs by outputs (see
    :func:`scale_by_accumulated_gram` for other tensors), less what a threshold masks.
    What earlier tasks have taught lies in the directions that their inputs had;
    others stay free to learn. It is on from the first step and needs no task boundary.
    The learning rate is that of SGD, which it is for :math:`\kappa \to \infty`.

    It is this chain of the parts::

      optax.chain(
        threshold_mask(threshold, relative=relative),
        decay_gate(scale_by_accumulated_gram(damping), apply_decay),
        optax.scale_by_learning_rate(learning_rate),
      )

    Args:
      learning_rate: :math:`\alpha`; a number, an injected value or a schedule.
      damping: :math:`\kappa > 0`, the sum of squared gradient at which the step along a
        direction is slowed by :math:`2^q`; a number, an injected value or a schedule.
      threshold: as for :func:`classp`.
      exponent: :math:`q`, as for :func:`scale_by_accumulated_gram`.
      refresh_every: likewise; None, with ``solver.update(..., refresh=True)`` at the
        first step of each task, where tasks are announced.
      max_dim: likewise.
      rank: likewise.
      apply_decay: whether to slow the directions; as for :func:`classp`.
      relative: as for :func:`classp`.
      memory: as for :func:`scale_by_accumulated_gram`.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`. Its state takes
      :math:`8 k / n` bytes a weight of a matrix of :math:`n` outputs and more inputs
      than :math:`k`, the ``rank``.

    Raises:
      ValueError: as :func:`classp` and :func:`scale_by_accumulated_gram`.
      TypeError: likewise.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax import classp_gram
      >>> solver = classp_gram(learning_rate=0.1, damping=1.0, refresh_every=1)
      >>> opt_state = solver.init(jnp.zeros([2, 1]))
      >>> for inputs in ([3.0, 0.0], [3.0, 0.0], [0.0, 3.0]):  # the last is new
      ...   grad = jnp.array(inputs)[:, None]
      ...   updates, opt_state = solver.update(grad, opt_state)
      ...   print(updates[:, 0].round(3))
      [-0.03 -0.  ]
      [-0.016 -0.   ]
      [-0.   -0.03]

    References:
      After Ludwig, `CLASSP <https://arxiv.org/abs/2405.09637>`_, 2024; not in it.
    """
    scale = _gram.scale_by_accumulated_gram(
        damping,
        exponent=exponent,
        refresh_every=refresh_every,
        max_dim=max_dim,
        rank=rank,
        memory=memory,
    )
    return chain_in_float32(
        learning_rate,
        optax.chain(
            _transforms.threshold_mask(threshold, relative=relative),
            _transforms.decay_gate(scale, apply_decay),
        ),
    )
