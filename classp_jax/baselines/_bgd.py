"""Bayesian gradient descent: a mean and a standard deviation for each weight."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters, _paths, _placement, _states
from classp_jax._arrays import in_dtype_of, refuse_complex
from classp_jax.baselines import _noise
from classp_jax.baselines._penalty import (
    needed,
    refuse_integers,
    shaped_like,
    wide_zeros,
)


class BgdState(NamedTuple):
    """State of :func:`bgd`.

    Attributes:
      count: number of updates so far; shape ``()``, dtype ``int32``.
      rng_key: the random key, from which ``count`` makes that of each step's sample;
        shape ``()``.
      mean: of each weight, shaped like the parameters; 4 bytes per weight in float32.
      std: the standard deviation of each weight, shaped like the parameters; 4 bytes
        per weight in float32.
    """

    count: jax.Array  # type: ignore[assignment]
    rng_key: jax.Array
    mean: optax.Params
    std: optax.Params


def bgd(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    initial_std: float | jax.Array = 0.02,
    *,
    batch_size: optax.ScalarOrSchedule,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Bayesian Gradient Descent (BGD): weights that are sure of themselves move less.

    Each weight has a normal distribution with mean :math:`\mu` and standard deviation
    :math:`\sigma`. The parameters are a sample of it, and so is each gradient taken at
    one:

    .. math::

      w_t &= \mu_t + \sigma_t\, \epsilon_t \\
      \mu_{t+1} &= \mu_t - \eta\, \sigma_t^2\, g_t \\
      \sigma_{t+1} &= \sigma_t \sqrt{1 + a_t^2} - \sigma_t a_t
        = \sigma_t\, e^{-\mathrm{asinh}\, a_t},
      \qquad a_t = \tfrac12 \sigma_t\, g_t\, \epsilon_t

    :math:`g` is the gradient of the *sum* of the batch's losses: ``batch_size`` is what
    the gradient of their mean is multiplied by. The update moves the parameters to the
    next sample, so it must reach them as it is: nothing that changes updates may follow
    in the chain. :math:`\sigma\epsilon` is what the parameters have above the mean. At
    the first step that is 0: ``init`` takes the parameters as the mean, and the first
    gradient, taken there, leaves :math:`\sigma` as it is.

    To evaluate, take the mean, by :func:`bgd_eval_params`.

    There is one sample per step, where the authors average :math:`g` and
    :math:`g\epsilon` over ten. :class:`optax.MultiSteps` makes no further samples: it
    averages the gradients of several batches at the same one; ``batch_size`` is then
    that of all together.

    Args:
      learning_rate: :math:`\eta \ge 0`, of the mean; 1 in most of the authors'
        experiments. A number, an injected value or a schedule.
      initial_std: the first :math:`\sigma > 0` of all weights, from 0.01 to 0.06 in the
        authors' experiments; a number or an injected value.
      batch_size: of how many examples the gradient is the mean, above 0; 1 if it is
        that of their sum. A number, an injected value or a schedule.
      key: a seed, or a key of :func:`jax.random.key`, for the samples. Inside
        :func:`jax.shard_map` all devices draw the same; call ``update`` outside of it.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`BgdState`: 8 bytes per weight in float32. Updates keep the gradient's
      dtype; the arithmetic is in at least float32. ``update`` needs ``params``. A step
      after which the mean or standard deviation of a weight wouldn't be finite leaves
      both as they are; the weight gets a further sample. A gradient of None leaves its
      weights as they are, and mean and standard deviation too.

    Raises:
      ValueError: if ``learning_rate`` is negative, ``initial_std`` or ``batch_size``
        isn't above 0, or one of them isn't finite or a scalar; in ``init``, if a
        parameter is complex; in ``update``, without ``params`` or if a gradient is
        complex.
      TypeError: if ``learning_rate`` or ``batch_size`` is neither a number nor a
        schedule, ``initial_std`` isn't a number, or ``key`` is neither an integer nor a
        key; in ``update``, if a gradient is an integer.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax.baselines import bgd, bgd_eval_params
      >>> loss = lambda w: 8 * (w[0] - 1.2) ** 2  # the second weight is free
      >>> params = jnp.array([1.0, 1.0])
      >>> solver = bgd(initial_std=0.1, batch_size=1)
      >>> opt_state = solver.init(params)
      >>> for _ in range(500):
      ...     gradient = jax.grad(loss)(params)
      ...     updates, opt_state = solver.update(gradient, opt_state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(bgd_eval_params(opt_state, params).round(1))
      [1.2 1. ]
      >>> print((opt_state.std / 0.1).round(1))  # the first weight is known better
      [0.1 1. ]

    References:
      Zeno et al., `Task Agnostic Continual Learning Using Online Variational Bayes
      <https://arxiv.org/abs/1803.10123>`_, 2018: Algorithm 1. The authors' code is at
      https://github.com/igolan/bgd.

    .. seealso:: :func:`bgd_eval_params`
    """
    _hyperparameters.check_not_negative("learning_rate", learning_rate)
    _hyperparameters.check_power("initial_std", initial_std)
    _hyperparameters.check_positive("batch_size", batch_size)
    _noise.check_key("key", key)

    def init_fn(params: optax.Params) -> BgdState:
        refuse_complex(params)
        zeros = wide_zeros(params)
        return BgdState(
            _placement.initial_count(params),
            _noise.initial_key(params, key),
            # Sums, as a step that donates the parameters would take the mean along.
            jax.tree.map(lambda x, w: x + jnp.asarray(w, x.dtype), zeros, params),
            jax.tree.map(lambda x: x + jnp.asarray(initial_std, x.dtype), zeros),
        )

    def update_fn(
        updates: optax.Updates,
        state: BgdState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, BgdState]:
        del extra_args
        params = needed("bgd", params)
        refuse_complex(updates)
        refuse_integers("gradient", updates)
        eta = _hyperparameters.at_step("learning_rate", learning_rate, state.count)
        examples = _hyperparameters.at_step("batch_size", batch_size, state.count)
        of_sample = jax.random.fold_in(state.rng_key, state.count)

        def learned(
            g: jax.Array | None,
            w: jax.typing.ArrayLike,
            mean: jax.Array,
            std: jax.Array,
        ) -> tuple[jax.Array, jax.Array]:
            if g is None:
                return mean, std
            total = jnp.asarray(g, mean.dtype) * jnp.asarray(examples, mean.dtype)
            deviation = jnp.asarray(w, mean.dtype) - mean
            new_mean = mean - jnp.asarray(eta, mean.dtype) * jnp.square(std) * total
            new_std = std * jnp.exp(-jnp.arcsinh(total * deviation / 2))
            finite = jnp.isfinite(new_mean) & jnp.isfinite(new_std)
            return jnp.where(finite, new_mean, mean), jnp.where(finite, new_std, std)

        def step(
            g: jax.Array | None,
            w: jax.typing.ArrayLike,
            mean: jax.Array,
            std: jax.Array,
            epsilon: jax.Array,
        ) -> jax.Array | None:
            if g is None:
                return None
            update = mean + std * epsilon - jnp.asarray(w, mean.dtype)
            return in_dtype_of(jnp.asarray(g), update)

        mean, std = (
            jax.tree.map(
                lambda *leaves, i=i: learned(*leaves)[i],
                updates,
                params,
                state.mean,
                state.std,
                is_leaf=_is_none,
            )
            for i in (0, 1)
        )
        noise = _noise.normal_like(of_sample, mean)
        updates = jax.tree.map(
            step, updates, params, mean, std, noise, is_leaf=_is_none
        )
        count = optax.safe_increment(state.count)
        return updates, BgdState(count, state.rng_key, mean, std)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def bgd_eval_params(opt_state: optax.OptState, params: optax.Params) -> optax.Params:
    """The means of the weights that :func:`bgd` trains, to evaluate a model at.

    Args:
      opt_state: any optimizer state that holds a :class:`BgdState`.
      params: the parameters. What no :class:`BgdState` holds, such as a tensor that a
        mask leaves out, stays as it is.

    Returns:
      The means, in the parameters' dtypes.

    Raises:
      ValueError: if there is no :class:`BgdState` in ``opt_state``, or it isn't shaped
        like the parameters.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax.baselines import bgd, bgd_eval_params
      >>> params = jnp.array([1.0, 2.0])
      >>> solver = bgd(initial_std=0.5, batch_size=1)
      >>> opt_state = solver.init(params)
      >>> updates, opt_state = solver.update(jnp.ones(2), opt_state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(bgd_eval_params(opt_state, params))
      [0.75 1.75]

    .. seealso:: :func:`bgd`
    """

    def is_state(node: Any) -> bool:
        return isinstance(node, BgdState)

    states = [x for x in jax.tree.leaves(opt_state, is_leaf=is_state) if is_state(x)]
    if not states:
        raise ValueError(
            "There is no BgdState in this optimizer state, which"
            f" {_states.holds(opt_state)}."
        )
    means: dict[str, jax.Array] = {}
    for state in states:
        shaped_like(state.mean, "params", params)
        means |= _paths.by_path(state.mean)
    own = _paths.by_path(params)
    leaves = [
        means[path].astype(jnp.result_type(p)) if path in means else p
        for path, p in own.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _is_none(x: Any) -> bool:
    return x is None
