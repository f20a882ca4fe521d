"""Decoupled weight decay, as AdamW has it, behind what makes the step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from classp_jax import _hyperparameters
from classp_jax._arrays import at_least_float32, refuse_complex
from classp_jax._classp import chain_in_float32
from classp_jax.baselines._penalty import needed, refuse_integers


def with_weight_decay(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: optax.ScalarOrSchedule,
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Chains a part, decoupled weight decay and the rate, in at least float32."""
    _hyperparameters.check_not_negative("weight_decay", weight_decay)
    decay = optax.add_decayed_weights(weight_decay)
    chained = chain_in_float32(learning_rate, optax.chain(transformation, decay))

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        params = needed(name, params)
        refuse_complex(updates)
        refuse_integers("gradient", updates)  # Before they are floating.
        updates, state = chained.update(updates, state, widened(params), **extra_args)
        return updates, state

    return optax.GradientTransformationExtraArgs(chained.init, update_fn)


def widened(tree: Any) -> Any:
    """A tree's arrays in at least float32."""
    return jax.tree.map(
        lambda x: jnp.asarray(x).astype(at_least_float32(jnp.result_type(x))), tree
    )
