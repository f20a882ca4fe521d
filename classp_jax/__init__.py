"""CLASSP (Ludwig 2024): continual learning as composable Optax transformations."""

from classp_jax import baselines, metrics
from classp_jax._classp import classp, classp_equation1
from classp_jax._classp_gram import classp_gram
from classp_jax._classp_released import classp_released
from classp_jax._collect import collect
from classp_jax._diagnostics import (
    CountNonfiniteState,
    average_grad_sum,
    count_nonfinite,
    unassigned_share,
    update_density,
)
from classp_jax._displacement import displacement_bound
from classp_jax._gram import scale_by_accumulated_gram
from classp_jax._gram_sketch import GramSketch, SketchedScaling
from classp_jax._injected import set_hyperparameters
from classp_jax._per_layer import per_layer
from classp_jax._report import TensorReport, tensor_report
from classp_jax._signals import (
    GateSignalState,
    LossJumpState,
    gate_signal,
    loss_jump,
)
from classp_jax._states import (
    DecayGateState,
    ScaleByAccumulatedGramState,
    ScaleByAccumulatedPowerNormState,
    ThresholdMaskState,
)
from classp_jax._sums import FactoredSum
from classp_jax._transforms import (
    decay_gate,
    scale_by_accumulated_power_norm,
    threshold_mask,
)

__version__ = "0.2.0"

__all__ = [
    "CountNonfiniteState",
    "DecayGateState",
    "FactoredSum",
    "GateSignalState",
    "GramSketch",
    "LossJumpState",
    "ScaleByAccumulatedGramState",
    "ScaleByAccumulatedPowerNormState",
    "SketchedScaling",
    "TensorReport",
    "ThresholdMaskState",
    "average_grad_sum",
    "baselines",
    "classp",
    "classp_equation1",
    "classp_gram",
    "classp_released",
    "collect",
    "count_nonfinite",
    "decay_gate",
    "displacement_bound",
    "gate_signal",
    "loss_jump",
    "metrics",
    "per_layer",
    "scale_by_accumulated_gram",
    "scale_by_accumulated_power_norm",
    "set_hyperparameters",
    "tensor_report",
    "threshold_mask",
    "unassigned_share",
    "update_density",
]
