"""CLASSP as the paper prints it: Algorithm 1 and Equation 1, chains of the parts."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters, _mask, _transforms
from classp_jax._arrays import at_least_float32, in_dtype_of


def classp(
    learning_rate: optax.ScalarOrSchedule,
    threshold: optax.ScalarOrSchedule = 0.0,
    *,
    power: float | jax.Array = 1.0,
    eps: optax.ScalarOrSchedule = 1e-5,
    apply_decay: bool | optax.ScalarOrSchedule = 1.0,
    relative: bool = False,
    factored: bool = False,
    bounded: bool = False,
    memory: optax.ScalarOrSchedule | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""CLASSP as the paper's Algorithm 1 prints it, with one gradient sum per weight.

    The mask is :math:`m_t = [g_t^2 > \theta]`, element by element. With ``relative``
    it is :math:`m_t = [g_t^2 > \theta\, \overline{g_t^2}]`, where the mean is over the
    tensor (see :func:`threshold_mask`). Then:

    .. math::

      s_t = s_{t-1} + m_t |g_t|^p, \qquad
      w_{t+1} = w_t - \alpha\, m_t \begin{cases}
        g_t / (\varepsilon + s_t)^{1/p} & \text{while the decay is applied} \\
        g_t & \text{while it is not} \end{cases}

    Keep ``apply_decay`` off on the first task: this is plain SGD while the gradient sum
    :math:`s` grows. Turn it on at the task boundary: the weights that the first task
    used most have the largest sums and then move least. A schedule or
    :func:`optax.inject_hyperparams` changes every hyperparameter but ``power`` during
    training, without a new optimizer or compilation.

    The optimizer is this chain of the parts, computed in one pass over the weights. In
    float32 the result is the same to the bit::

      optax.chain(
        threshold_mask(threshold, relative=relative),
        decay_gate(scale_by_accumulated_power_norm(power, eps), apply_decay),
        optax.scale_by_learning_rate(learning_rate),
      )

    A gradient element that isn't finite changes neither its weight nor its sum.
    While the decay is applied, the same holds for an element whose power overflows.
    :func:`count_nonfinite` counts the steps with such gradients.

    Args:
      learning_rate: :math:`\alpha`; a number, an injected value or a schedule.
      threshold: :math:`\theta \ge 0`, compared with the squared gradient; a number,
        an injected value or a schedule.
      power: :math:`p > 0`; a number, the same at every step. With
        :func:`optax.inject_hyperparams`, pass ``static_args="power"``: the powers 1 and
        2 are then computed without the slow ``pow``.
      eps: :math:`\varepsilon > 0`, added to the sum; a number, an injected value or a
        schedule.
      apply_decay: whether to divide by the root of the sum; a bool, a number, an
        injected number or a schedule. :func:`optax.inject_hyperparams` injects numbers
        but not bools: pass 0.0, not False, to begin with the decay off.
      relative: whether the threshold is in units of the tensor's mean squared gradient
        at that step; a Python bool. A shard inside :func:`jax.shard_map` counts as one
        tensor (see :func:`threshold_mask`), and so does a stack of layers without
        :func:`per_layer`.
      factored: whether to keep one sum per row and per column of a matrix instead of
        one per weight; a Python bool. Shards and stacks count as with ``relative``.
        See :func:`scale_by_accumulated_power_norm`.
      bounded: whether to divide by :math:`(1 + s_t / \varepsilon)^{1/p}` instead; a
        Python bool. No step is then longer than that of SGD, and the gate opens without
        a jump.
      memory: :math:`N > 1`, the number of steps over which a sum fades:
        :math:`s_t = (1 - 1/N)\, s_{t-1} + m_t |g_t|^p`. It keeps late tasks of a long
        stream learnable. A number, an injected value or a schedule; with None a sum
        never fades. See :func:`scale_by_accumulated_power_norm`.
      accumulator_dtype: a floating dtype for the sum; by default float32, and float64
        for float64 parameters.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`. Its state is
      one sum per weight, 4 bytes by default, and next to nothing if ``factored``.

    Raises:
      ValueError: if ``threshold`` is negative, ``power`` or ``eps`` isn't above 0,
        ``memory`` isn't above 1, a hyperparameter other than ``memory`` isn't finite,
        or one isn't a scalar, each in float32. Injected values are checked outside of
        compiled steps only; a schedule of the learning rate isn't checked. In ``init``
        and ``update``, if a tensor is complex.
      TypeError: if ``power`` isn't a number, another hyperparameter is neither a number
        nor a schedule, ``relative``, ``factored`` or ``bounded`` isn't a bool, or
        ``accumulator_dtype`` isn't a floating dtype.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax import classp
      >>> def f(x): return jnp.sum(x ** 2)  # simple quadratic function
      >>> solver = classp(learning_rate=0.5)
      >>> params = jnp.array([1., 2., 3.])
      >>> print('Objective function: ', f(params))
      Objective function:  14.0
      >>> opt_state = solver.init(params)
      >>> for _ in range(5):
      ...  grad = jax.grad(f)(params)
      ...  updates, opt_state = solver.update(grad, opt_state, params)
      ...  params = optax.apply_updates(params, updates)
      ...  print('Objective function: {:.2E}'.format(f(params)))
      Objective function: 8.75E+00
      Objective function: 6.93E+00
      Objective function: 5.91E+00
      Objective function: 5.22E+00
      Objective function: 4.72E+00

    References:
      Ludwig, `CLASSP <https://arxiv.org/abs/2405.09637>`_, 2024: Algorithm 1.

    .. seealso:: :func:`classp_equation1`, :func:`classp_released`
    """
    return _classp(
        learning_rate,
        threshold,
        power,
        eps,
        apply_decay,
        relative,
        factored,
        bounded,
        memory,
        accumulator_dtype,
        only_what_passes=True,
    )


def classp_equation1(
    learning_rate: optax.ScalarOrSchedule,
    threshold: optax.ScalarOrSchedule = 0.0,
    *,
    power: float | jax.Array = 1.0,
    eps: optax.ScalarOrSchedule = 1e-5,
    apply_decay: bool | optax.ScalarOrSchedule = 1.0,
    relative: bool = False,
    factored: bool = False,
    bounded: bool = False,
    memory: optax.ScalarOrSchedule | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""CLASSP as the paper's Equation 1 prints it; to compare with :func:`classp`.

    The mask :math:`m_t` is that of :func:`classp`. Then:

    .. math::

      s_t = s_{t-1} + |g_t|^p, \qquad
      w_{t+1} = w_t - \alpha\, m_t \begin{cases}
        g_t / (\varepsilon + s_{t-1})^{1/p} & \text{while the decay is applied} \\
        g_t & \text{while it is not} \end{cases}

    It differs from :func:`classp` in two ways: the sum takes in every finite gradient,
    masked or not, and the divisor contains only the earlier gradients. The first
    decayed step of a weight without history is therefore
    :math:`\alpha g / \varepsilon^{1/p}`, which is very large. Collect a sum before you
    turn the decay on, or choose a larger ``eps``.

    Args:
      learning_rate: as for :func:`classp`.
      threshold: as for :func:`classp`.
      power: as for :func:`classp`. The equation prints a square root, which is taken
        to be the p-th root of Algorithm 1; for :math:`p = 2` they agree.
      eps: as for :func:`classp`.
      apply_decay: as for :func:`classp`.
      relative: as for :func:`classp`.
      factored: as for :func:`classp`.
      bounded: as for :func:`classp`.
      memory: as for :func:`classp`; the divisor contains :math:`s_{t-1}` before it
        fades.
      accumulator_dtype: as for :func:`classp`.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with a state
      like that of :func:`classp`.

    Raises:
      ValueError: as :func:`classp`.
      TypeError: as :func:`classp`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from classp_jax import classp_equation1
      >>> solver = classp_equation1(0.1, threshold=1.0, eps=1.0)
      >>> gradient = jnp.array([0.5, 2.0])
      >>> opt_state = solver.init(gradient)
      >>> for _ in range(2):
      ...     updates, opt_state = solver.update(gradient, opt_state)
      ...     print(updates)
      [-0.  -0.2]
      [-0.         -0.06666667]

    References:
      Ludwig, `CLASSP <https://arxiv.org/abs/2405.09637>`_, 2024: Equation 1.
    """
    return _classp(
        learning_rate,
        threshold,
        power,
        eps,
        apply_decay,
        relative,
        factored,
        bounded,
        memory,
        accumulator_dtype,
        only_what_passes=False,
    )


def _classp(
    learning_rate: optax.ScalarOrSchedule,
    threshold: optax.ScalarOrSchedule,
    power: float | jax.Array,
    eps: optax.ScalarOrSchedule,
    apply_decay: bool | optax.ScalarOrSchedule,
    relative: bool,
    factored: bool,
    bounded: bool,
    memory: optax.ScalarOrSchedule | None,
    accumulator_dtype: jax.typing.DTypeLike | None,
    only_what_passes: bool,
) -> optax.GradientTransformationExtraArgs:
    """Algorithm 1 if sum and divisor take in only what passes, else Equation 1.

    Algorithm 1 computes the chain in its docstring, without storing the masked gradient
    between the parts: the scaling is told the bounds of the mask instead.
    """
    scale = _transforms.scale_by_accumulated_power_norm(
        power,
        eps,
        include_current=only_what_passes,
        factored=factored,
        bounded=bounded,
        memory=memory,
        accumulator_dtype=accumulator_dtype,
    )
    mask = _mask.mask_updates(
        _mask.absolute_or_relative(relative),
        _mask.passes,
        threshold,
        _transforms.decay_gate(scale, apply_decay),
        bounds_for_inner=only_what_passes,
    )
    return chain_in_float32(learning_rate, mask)


def chain_in_float32(
    learning_rate: optax.ScalarOrSchedule, transformation: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Chains a transformation with the learning rate, in at least float32 throughout.

    Updates return to the gradient's dtype once, at the end: g / eps may overflow
    float16 where alpha * g / eps doesn't.
    """
    _hyperparameters.check_number("learning_rate", learning_rate)
    chained = optax.chain(transformation, optax.scale_by_learning_rate(learning_rate))

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        gradients = jax.tree.map(jnp.asarray, updates)
        wide = jax.tree.map(lambda g: g.astype(at_least_float32(g.dtype)), gradients)
        wide, state = chained.update(wide, state, params, **extra_args)
        return jax.tree.map(in_dtype_of, gradients, wide), state

    return optax.GradientTransformationExtraArgs(chained.init, update_fn)
