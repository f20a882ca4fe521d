"""Elastic weight consolidation: a penalty towards the weights of an earlier task."""

from typing import Any

import jax
import optax

from classp_jax import _hyperparameters
from classp_jax._arrays import refuse_complex
from classp_jax.baselines._penalty import (
    EwcPenaltyState,
    check_not_negative,
    penalized,
    penalty_state,
    replaced,
    shaped_like,
)
from classp_jax.baselines._synaptic_intelligence import SynapticIntelligenceState


def ewc_penalty(
    fisher: optax.Params,
    anchor: optax.Params,
    strength: optax.ScalarOrSchedule,
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of elastic weight consolidation's penalty, taken implicitly.

    The penalty is :math:`\frac{\lambda}{2} \sum_i F_i (w_i - w^*_i)^2`. It stands
    before the optimizer, ``optax.chain(ewc_penalty(...), optax.sgd(learning_rate))``,
    and its gradient is that at the weights which the step leads to:

    .. math::

      u = \frac{g + \lambda F (w - w^*)}{1 + \alpha \lambda F}

    Before plain SGD of the same rate :math:`\alpha` this is the proximal, or backward
    Euler, step :math:`w' = w - \alpha\,(g + \lambda F (w' - w^*))`. It is stable at any
    strength: a large one pins :math:`w'` to :math:`w^*`. With a learning rate of 0 the
    gradient is the plain one, at :math:`w`, and SGD of rate :math:`\alpha` diverges
    once :math:`\alpha \lambda F > 2`. Before any other optimizer the step is damped
    likewise, but isn't exactly the proximal one.

    ``fisher`` and ``anchor`` are copied into the state, so that the compiled step
    takes them as inputs. To go on to a further task without compiling again, set others
    with :func:`set_penalty`. In float16, :math:`(w - w^*) / \alpha` overflows from
    65,504 on.

    Args:
      fisher: :math:`F \ge 0`, shaped like the parameters; see
        :func:`fisher_diagonal`. Inside :func:`optax.masked` it may have what the mask
        leaves out as well, which isn't read; so may ``anchor``.
      anchor: :math:`w^*`, shaped like the parameters: the weights that the earlier
        task was learned with.
      strength: :math:`\lambda \ge 0`; a number, an injected value or a schedule.
      learning_rate: :math:`\alpha \ge 0`, that of the SGD behind; a number, an
        injected value or a schedule.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`EwcPenaltyState`: 8 bytes a weight in float32, where :func:`classp` has
      4. Updates keep the gradient's dtype; the arithmetic is in at least float32.
      ``update`` needs ``params``. A gradient that isn't finite stays so, unlike in
      :func:`classp`, and adds nothing to the derivatives by ``strength`` and
      ``learning_rate``. Of abstract parameters (:class:`jax.ShapeDtypeStruct`), what
      ``fisher`` and ``anchor`` have abstract stays so in the state.

    Raises:
      ValueError: if ``strength`` or ``learning_rate`` is negative, not finite or not a
        scalar; in ``init``, if ``fisher`` or ``anchor`` isn't shaped like the
        parameters, ``fisher`` has a value below 0 or one that isn't finite, or a
        parameter is complex; in ``update``, without ``params`` or if a gradient is
        complex.
      TypeError: if ``strength`` or ``learning_rate`` is neither a number nor a
        schedule; in ``update``, if a gradient is an integer. A parameter may be one if
        its gradient is None.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax.baselines import ewc_penalty
      >>> params = jnp.array([1.0, 1.0, 1.0])
      >>> solver = optax.chain(
      ...     ewc_penalty(
      ...         fisher=jnp.array([0.0, 1.0, 1e9]), anchor=params,
      ...         strength=4.0, learning_rate=0.25,
      ...     ),
      ...     optax.sgd(0.25),
      ... )
      >>> opt_state = solver.init(params)
      >>> for _ in range(3):
      ...     gradient = jnp.ones(3)
      ...     updates, opt_state = solver.update(gradient, opt_state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     print(params)
      [0.75  0.875 1.   ]
      [0.5    0.8125 1.    ]
      [0.25    0.78125 1.     ]

    References:
      Kirkpatrick et al., `Overcoming catastrophic forgetting in neural networks
      <https://arxiv.org/abs/1612.00796>`_, 2017: Equation 3.

    .. seealso:: :func:`fisher_diagonal`, :func:`set_penalty`
    """
    _hyperparameters.check_not_negative("strength", strength)
    _hyperparameters.check_not_negative("learning_rate", learning_rate)

    def init_fn(params: optax.Params) -> EwcPenaltyState:
        refuse_complex(params)
        own_fisher = shaped_like(params, "fisher", fisher)
        own_anchor = shaped_like(params, "anchor", anchor)
        check_not_negative("fisher", own_fisher)
        return penalty_state(params, own_fisher, own_anchor)

    def update_fn(
        updates: optax.Updates,
        state: EwcPenaltyState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, EwcPenaltyState]:
        del extra_args
        if params is None:
            raise ValueError(
                "ewc_penalty requires the current parameters: pass params to update."
            )
        return penalized(updates, state, params, strength, learning_rate)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def set_penalty(
    opt_state: optax.OptState, fisher: optax.Params, anchor: optax.Params
) -> optax.OptState:
    """Sets what :func:`ewc_penalty` draws to, for a further task.

    Every :class:`EwcPenaltyState` is set, at any depth of wrappers, but that of
    :func:`synaptic_intelligence`, for which there is :func:`consolidate`. Copies are
    set, as a step that donates the parameters would take the anchor along, in the
    dtypes and places that are there: a compiled step goes on without compiling again.

    Args:
      opt_state: any optimizer state that holds an :class:`EwcPenaltyState`.
      fisher: as for :func:`ewc_penalty`; it may have more than a masked or partitioned
        penalty reads.
      anchor: likewise.

    Returns:
      The state with which the next task begins.

    Raises:
      ValueError: if there is no :class:`EwcPenaltyState` in ``opt_state``, ``fisher``
        or ``anchor`` isn't shaped like the parameters it is of, or ``fisher`` has a
        value below 0 or one that isn't finite.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from classp_jax.baselines import ewc_penalty, set_penalty
      >>> params = jnp.array([2.0])
      >>> penalty = ewc_penalty(params, params, strength=1.0, learning_rate=0.0)
      >>> opt_state = penalty.init(params)
      >>> opt_state = set_penalty(opt_state, fisher=jnp.array([3.0]), anchor=params - 1)
      >>> updates, opt_state = penalty.update(jnp.zeros(1), opt_state, params)
      >>> print(updates)
      [3.]

    .. seealso:: :func:`classp_jax.set_hyperparameters`, :func:`consolidate`
    """
    found = False

    def is_state(node: Any) -> bool:
        return isinstance(node, (EwcPenaltyState, SynapticIntelligenceState))

    def set_in(node: Any) -> Any:
        nonlocal found
        if isinstance(node, SynapticIntelligenceState):
            return node._replace(inner_state=everywhere(node.inner_state))
        if not is_state(node):
            return node
        found = True
        return replaced(node, fisher, anchor)

    def everywhere(tree: Any) -> Any:
        return jax.tree.map(set_in, tree, is_leaf=is_state)

    new_state = everywhere(opt_state)
    if not found:
        raise ValueError(
            "There is no EwcPenaltyState in this optimizer state:"
            f" {jax.tree.structure(opt_state)}."
        )
    return new_state
