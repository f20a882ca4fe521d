"""CLASSP (Ludwig 2024), continual learning as composable Optax transformations."""

from classp_jax._alias import classp, classp_equation1, classp_released
from classp_jax._boundary import set_hyperparameters, set_penalty
from classp_jax._diagnostics import (
    CountNonfiniteState,
    average_grad_sum,
    count_nonfinite,
    unassigned_share,
    update_density,
)
from classp_jax._ewc import EwcPenaltyState, ewc_penalty, fisher_diagonal
from classp_jax._factored import FactoredSum
from classp_jax._metrics import (
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
)
from classp_jax._per_layer import per_layer
from classp_jax._signals import (
    GateSignalState,
    LossJumpState,
    gate_signal,
    loss_jump,
)
from classp_jax._synaptic_intelligence import (
    SynapticIntelligenceState,
    consolidate,
    synaptic_intelligence,
)
from classp_jax._transforms import (
    DecayGateState,
    ScaleByAccumulatedPowerNormState,
    ThresholdMaskState,
    decay_gate,
    scale_by_accumulated_power_norm,
    threshold_mask,
)

__version__ = "0.2.0"

__all__ = [
    "CountNonfiniteState",
    "DecayGateState",
    "EwcPenaltyState",
    "FactoredSum",
    "GateSignalState",
    "LossJumpState",
    "ScaleByAccumulatedPowerNormState",
    "SynapticIntelligenceState",
    "ThresholdMaskState",
    "average_accuracy",
    "average_grad_sum",
    "backward_transfer",
    "classp",
    "classp_equation1",
    "classp_released",
    "consolidate",
    "count_nonfinite",
    "decay_gate",
    "ewc_penalty",
    "fisher_diagonal",
    "forgetting",
    "forward_transfer",
    "gate_signal",
    "loss_jump",
    "per_layer",
    "scale_by_accumulated_power_norm",
    "set_hyperparameters",
    "set_penalty",
    "synaptic_intelligence",
    "threshold_mask",
    "unassigned_share",
    "update_density",
]
