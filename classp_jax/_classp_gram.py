"""CLASSP with per-direction sums: a chain of the parts."""

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
    r"""CLASSP with one gradient sum per direction of a layer's inputs.

    .. math::

      L_t = L_{t-1} + G_t G_t^\top, \qquad
      W_{t+1} = W_t - \alpha \left(I + \frac{L_t}{\kappa}\right)^{-q} G_t

    Here :math:`G` is the gradient of a matrix of inputs by outputs, without what a
    threshold masks; :func:`scale_by_accumulated_gram` says how other tensors are
    treated. A framework that keeps a matrix as outputs by inputs, such as Equinox, has
    to transpose it first. What earlier tasks have taught lies in the directions of
    their inputs, and these are slowed. Other directions stay free to learn. The decay
    is on from the first step, and no task boundary is needed. The learning rate means
    what it means to SGD, which is the limit :math:`\kappa \to \infty`.

    The optimizer is this chain of the parts::

      optax.chain(
        threshold_mask(threshold, relative=relative),
        decay_gate(scale_by_accumulated_gram(damping), apply_decay),
        optax.scale_by_learning_rate(learning_rate),
      )

    Args:
      learning_rate: :math:`\alpha`; a number, an injected value or a schedule.
      damping: :math:`\kappa > 0`, the gradient sum at which steps along a direction are
        divided by :math:`2^q`, in units of the squared gradient; a number, an injected
        value or a schedule. A smaller one keeps more of earlier tasks, a larger one
        learns new tasks better.
      threshold: as for :func:`classp`.
      exponent: :math:`q`, as for :func:`scale_by_accumulated_gram`.
      refresh_every: as for :func:`scale_by_accumulated_gram`. If tasks are announced,
        pass None and call ``solver.update(..., refresh=True)`` at the first step of
        each task.
      max_dim: as for :func:`scale_by_accumulated_gram`.
      rank: as for :func:`scale_by_accumulated_gram`.
      apply_decay: whether to slow the directions; as for :func:`classp`.
      relative: as for :func:`classp`.
      memory: as for :func:`scale_by_accumulated_gram`.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`. Its state takes
      :math:`8 k / n` bytes per weight for a matrix of :math:`n` outputs and more than
      :math:`k` inputs, where :math:`k` is the ``rank``.

    Raises:
      ValueError: as :func:`classp` and :func:`scale_by_accumulated_gram`.
      TypeError: as :func:`classp` and :func:`scale_by_accumulated_gram`.

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
      This rule is not in the paper that it builds on: Ludwig, `CLASSP
      <https://arxiv.org/abs/2405.09637>`_, 2024.
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
