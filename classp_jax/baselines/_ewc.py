"""Elastic weight consolidation: a penalty towards the weights of an earlier task."""

from typing import Any

import jax
import optax

from classp_jax import _hyperparameters, _states
from classp_jax._arrays import refuse_complex
from classp_jax.baselines._penalty import (
    EwcPenaltyState,
    check_not_negative,
    needed,
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
    r"""Adds the gradient of the penalty of elastic weight consolidation (EWC).

    The penalty is :math:`\frac{\lambda}{2} \sum_i F_i (w_i - w^*_i)^2`. Chain it in
    front of the optimizer: ``optax.chain(ewc_penalty(...), optax.sgd(learning_rate))``.
    Its step is implicit: the penalty's gradient is taken at the weights *after* it.

    .. math::

      u = \frac{g + \lambda F (w - w^*)}{1 + \alpha \lambda F}

    Chained with plain SGD of the same learning rate :math:`\alpha`, this is the
    proximal, or backward Euler, step
    :math:`w' = w - \alpha\,(g + \lambda F (w' - w^*))`. It is stable at any strength:
    a large one pins :math:`w'` to :math:`w^*`. With ``learning_rate=0`` the penalty's
    gradient is the plain one, at :math:`w`, and SGD diverges once
    :math:`\alpha \lambda F > 2`. With any other optimizer the step is damped as well,
    but it isn't exactly the proximal one.

    Other importances in place of :math:`F` make other methods of it. With those of
    :func:`mas_importance` it is Memory Aware Synapses. With ones, and the weights that
    training starts from as the anchor, it is L2-SP.

    ``fisher`` and ``anchor`` are copied into the state, so that the compiled step takes
    them as inputs. For a further task, set others with :func:`set_penalty`: nothing is
    compiled again. In float16, :math:`(w - w^*) / \alpha` overflows from 65,504 on.

    Args:
      fisher: :math:`F \ge 0`, shaped like the parameters; see
        :func:`fisher_diagonal` and :func:`mas_importance`. Inside
        :func:`optax.masked`, ``fisher`` and ``anchor`` may also have the tensors that
        the mask leaves out; these aren't read.
      anchor: :math:`w^*`, shaped like the parameters: the weights at the end of the
        earlier task.
      strength: :math:`\lambda \ge 0`; a number, an injected value or a schedule.
      learning_rate: :math:`\alpha \ge 0`, that of the SGD that follows in the chain; a
        number, an injected value or a schedule.

    Returns:
      The corresponding :class:`optax.GradientTransformationExtraArgs`, with the state
      :class:`EwcPenaltyState`: 8 bytes per weight in float32; :func:`classp` has 4.
      Updates keep the gradient's dtype; the arithmetic is in at least float32.
      ``update`` needs ``params``. Unlike in :func:`classp`, a gradient that isn't
      finite stays so; it adds nothing to the derivatives with respect to ``strength``
      and ``learning_rate``. With abstract parameters (:class:`jax.ShapeDtypeStruct`),
      what is abstract in ``fisher`` and ``anchor`` stays so in the state.

    Raises:
      ValueError: if ``strength`` or ``learning_rate`` is negative, not finite or not a
        scalar; in ``init``, if ``fisher`` or ``anchor`` isn't shaped like the
        parameters, ``fisher`` has a value below 0 or one that isn't finite, or a
        parameter is complex; in ``update``, without ``params`` or if a gradient is
        complex.
      TypeError: if ``strength`` or ``learning_rate`` is neither a number nor a
        schedule; in ``update``, if a gradient is an integer. A parameter may be an
        integer if its gradient is None.

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
      <https://arxiv.org/abs/1612.00796>`_, 2017: Equation 3. L2-SP: Li et al.,
      `Explicit Inductive Bias for Transfer Learning with Convolutional Networks
      <https://arxiv.org/abs/1802.01483>`_, 2018.

    .. seealso:: :func:`fisher_diagonal`, :func:`mas_importance`, :func:`set_penalty`
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
        params = needed("ewc_penalty", params)
        return penalized(updates, state, params, strength, learning_rate)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def set_penalty(
    opt_state: optax.OptState, fisher: optax.Params, anchor: optax.Params
) -> optax.OptState:
    """Replaces the Fisher and the anchor of :func:`ewc_penalty`, for a further task.

    It sets every :class:`EwcPenaltyState`, at any depth of wrappers, except for that of
    :func:`synaptic_intelligence`, which has :func:`consolidate`. It sets copies, since
    a step that donates the parameters would otherwise delete the anchor. The copies
    keep the dtypes and devices of the state, so a compiled step isn't compiled again.

    Args:
      opt_state: any optimizer state that holds an :class:`EwcPenaltyState`.
      fisher: as for :func:`ewc_penalty`; it may have more tensors than a masked or
        partitioned penalty reads.
      anchor: as for :func:`ewc_penalty`; it, too, may have more tensors.

    Returns:
      The state with which the next task begins.

    Raises:
      ValueError: if there is no :class:`EwcPenaltyState` in ``opt_state``, ``fisher``
        or ``anchor`` isn't shaped like the penalty's parameters, or ``fisher`` has a
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
            "There is no EwcPenaltyState in this optimizer state, which"
            f" {_states.holds(opt_state)}."
        )
    return new_state
