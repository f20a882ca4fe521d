"""AdamW with its rate decayed, as Transformers are usually trained."""

import optax

from examples.runner.optimizers import register_optimizer
from examples.runner.plan import Family

FAMILY = Family("AdamW", "#bb7744")
_WARMUP = 0.05  # Of the steps.

register_optimizer(optax.adamw)


@register_optimizer
def adamw_cosine(
    learning_rate: float, steps: int, weight_decay: float = 0.01
) -> optax.GradientTransformationExtraArgs:
    """AdamW, its rate warmed up and then decayed to 0 along half a cosine.

    Args:
      learning_rate: the highest.
      steps: after which the rate is 0, and stays so: in a further phase of the same
        optimizer a :class:`examples.methods.restart.Restart` lets it begin again.
      weight_decay: of the weights at each step, by the rate.

    Returns:
      The optimizer; gradients are clipped to a norm of 1.
    """
    warmup = max(1, round(_WARMUP * steps))
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps)
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=weight_decay)
    )
