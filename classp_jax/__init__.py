"""CLASSP (Ludwig 2024), continual learning as composable Optax transformations."""

from classp_jax._alias import classp, classp_equation1, classp_released
from classp_jax._diagnostics import (
    average_grad_sum,
    unassigned_share,
    update_density,
)
from classp_jax._ewc import EwcPenaltyState, ewc_penalty, fisher_diagonal
from classp_jax._transforms import (
    DecayGateState,
    ScaleByAccumulatedPowerNormState,
    ThresholdMaskState,
    decay_gate,
    scale_by_accumulated_power_norm,
    threshold_mask,
)

__version__ = "0.1.0"

__all__ = [
    "DecayGateState",
    "EwcPenaltyState",
    "ScaleByAccumulatedPowerNormState",
    "ThresholdMaskState",
    "average_grad_sum",
    "classp",
    "classp_equation1",
    "classp_released",
    "decay_gate",
    "ewc_penalty",
    "fisher_diagonal",
    "scale_by_accumulated_power_norm",
    "threshold_mask",
    "unassigned_share",
    "update_density",
]
