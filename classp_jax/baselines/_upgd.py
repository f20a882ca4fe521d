"""Utility-based perturbed gradient descent: useful weights make shorter steps."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters, _placement
from classp_jax._arrays import refuse_complex
from classp_jax.baselines import _noise
from classp_jax.baselines._decay import widened, with_weight_decay
from classp_jax.baselines._penalty import wide_zeros


class UpgdState(NamedTuple):
    """State of :func:`upgd`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      rng_key: the random key, from which ``count`` makes that of each step's noise;
        shape ``()``.
      utility: the moving average of each weight's utility, not corrected for its bias,
        shaped like the parameters; 4 bytes per weight in float32.
    """

    count: jax.Array  # type: ignore[assignment]
    rng_key: jax.Array
    utility: optax.Params


def upgd(
    learning_rate: optax.ScalarOrSchedule,
    beta_utility: float | jax.Array = 0.999,
    sigma: optax.ScalarOrSchedule = 0.001,
    weight_decay: optax.ScalarOrSchedule = 0.001,
    *,
    correct_maximum: bool = True,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Utility-based Perturbed Gradient Descent (UPGD).

    A weight's utility :math:`-g w` is, to first order, by how much the loss would rise
    without that weight. Useful weights make shorter steps and get less noise:

    .. math::

      u_t &= \beta u_{t-1} - (1 - \beta)\, g_t w_t, \qquad
      \hat u_t = \frac{u_t}{1 - \beta^t} \\
      w_{t+1} &= (1 - \alpha \lambda)\, w_t - \alpha\,(g_t + \sigma \xi_t)
        \left(1 - \mathrm{sigmoid}\Big(\frac{\hat u_t}{\max \hat u_t}\Big)\right)

    :math:`\xi_t` is standard normal noise. The maximum is over the weights of all
    tensors; a weight of no utility makes half a step of SGD, the most useful one 0.27
    of a step, and a weight of large negative utility nearly a whole one. The maximum is
    not that of the absolute value: if no utility is above 0, the quotient turns round
    and protects the weights of the least utility. If all are 0, each makes half a step.

    The authors' optimizer divides by the maximum of the averages :math:`u_t`, which are
    not corrected for their bias; set ``correct_maximum=False`` for this. The quotient
    is then :math:`1 / (1 - \beta^t)` times as large, 1,000 times at the first step
    with the default, so that the weights above 0 are next to fixed at first. The class
    in the authors' README also doubles the learning rate: a weight of no utility makes
    a whole step of SGD.

    Inside :func:`optax.masked` and :func:`optax.partition` the maximum is that of the
    tensors that the mask leaves or the group has.

    Args:
      learning_rate: :math:`\alpha`; a number, an injected value or a schedule.
      beta_utility: :math:`0 \le \beta < 1`, what the average keeps at each step; a
        number or an injected value.
      sigma: :math:`\sigma \ge 0`, the standard deviation of the noise; a number, an
        injected value or a schedule.
      weight_decay: :math:`\lambda \ge 0`, which also shrinks useful weights; a number,
        an injected value or a schedule.
      correct_maximum: whether the maximum is of averages that are corrected for their
        bias; a Python bool.
      key: a seed, or a key of :func:`jax.random.key`, for the noise. Inside
        :func:`jax.shard_map` all devices draw the same, and the maximum is that of a
        device's shards; call ``update`` outside of it.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, whose state
      contains an :class:`UpgdState`: 4 bytes per weight in float32. Updates keep the
      gradient's dtype; the arithmetic is in at least float32. ``update`` needs
      ``params``. A gradient that isn't finite stays so, but adds nothing to the
      utility; neither does a product :math:`g w` that overflows. A gradient of None
      leaves its weights and their utility as they are.

    Raises:
      ValueError: if ``learning_rate`` isn't finite, ``sigma`` or ``weight_decay`` is
        negative or not finite, ``beta_utility`` isn't from 0 on and below 1, or one of
        these isn't a scalar; in ``init``, if a parameter is complex; in ``update``,
        without ``params`` or if a gradient is complex.
      TypeError: if ``beta_utility`` isn't a number, one of the others is neither a
        number nor a schedule, ``correct_maximum`` isn't a bool, or ``key`` is neither
        an integer nor a key; in ``update``, if a gradient is an integer.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax.baselines import upgd
      >>> params = jnp.array([2.0, 1.0, -2.0])
      >>> solver = upgd(0.5, sigma=0.0, weight_decay=0.0)
      >>> opt_state = solver.init(params)
      >>> gradient = jnp.array([-1.0, 0.0, -1.0])  # the first weight is of use
      >>> updates, opt_state = solver.update(gradient, opt_state, params)
      >>> print(updates)
      [ 0.13447072 -0.          0.3655293 ]

    References:
      Elsayed and Mahmood, `Addressing Loss of Plasticity and Catastrophic Forgetting in
      Continual Learning <https://arxiv.org/abs/2404.00781>`_, 2024: Algorithm 1, with
      the first-order utility and the maximum over all weights. The authors' code is at
      https://github.com/mohmdelsayed/upgd.
    """
    _hyperparameters.check_below_1("beta_utility", beta_utility)
    _hyperparameters.check_not_negative("sigma", sigma)
    _hyperparameters.check_static_bool("correct_maximum", correct_maximum)
    _noise.check_key("key", key)

    def init_fn(params: optax.Params) -> UpgdState:
        refuse_complex(params)
        count = _placement.initial_count(params)
        return UpgdState(count, _noise.initial_key(params, key), wide_zeros(params))

    def update_fn(
        updates: optax.Updates,
        state: UpgdState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, UpgdState]:
        del extra_args
        count = optax.safe_increment(state.count)
        deviation = _hyperparameters.at_step("sigma", sigma, state.count)
        of_noise = jax.random.fold_in(state.rng_key, state.count)

        def average(
            g: jax.Array | None, u: jax.Array, w: jax.typing.ArrayLike
        ) -> jax.Array:
            if g is None:
                return u
            beta = jnp.asarray(beta_utility, u.dtype)
            product = jnp.asarray(g, u.dtype) * jnp.asarray(w, u.dtype)
            return beta * u - (1 - beta) * jnp.where(jnp.isfinite(product), product, 0)

        utility = jax.tree.map(
            average, updates, state.utility, params, is_leaf=lambda x: x is None
        )
        largest = _largest(utility)
        if not correct_maximum:
            beta = jnp.asarray(beta_utility, largest.dtype)
            largest = largest * (1 - beta**count)

        def perturb(g: jax.Array, noise: jax.Array, u: jax.Array) -> jax.Array:
            # Whatever corrects both numerator and maximum cancels.
            scale = jnp.asarray(largest, u.dtype)
            quotient = jnp.where(scale == 0, 0, u / jnp.where(scale == 0, 1, scale))
            noisy = g + jnp.asarray(deviation, g.dtype) * noise
            return noisy * jax.nn.sigmoid(-quotient)

        gradients = widened(updates)
        noise = _noise.normal_like(of_noise, gradients)
        own = jax.tree.map(
            lambda g, u: None if g is None else u,
            updates,
            utility,
            is_leaf=lambda x: x is None,
        )
        updates = jax.tree.map(perturb, gradients, noise, own)
        return updates, UpgdState(count, state.rng_key, utility)

    scale = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return with_weight_decay("upgd", learning_rate, weight_decay, scale)


def _largest(utility: optax.Params) -> jax.Array:
    """The largest utility of all weights, 0 where there is none."""
    tensors = [u for u in jax.tree.leaves(utility) if u.size]
    dtype = functools.reduce(
        jnp.promote_types, (u.dtype for u in tensors), jnp.dtype(jnp.float32)
    )
    of_each = [jnp.max(u).astype(dtype) for u in tensors]
    return jnp.max(jnp.stack(of_each)) if of_each else jnp.zeros([], dtype)
