"""Other methods to compare CLASSP with: EWC, MAS, SC-AdaGrad, Synaptic Intelligence."""

from classp_jax.baselines._ewc import ewc_penalty, set_penalty
from classp_jax.baselines._fisher import fisher_diagonal
from classp_jax.baselines._mas import mas_importance
from classp_jax.baselines._penalty import EwcPenaltyState
from classp_jax.baselines._sc_adagrad import (
    ScaleByScAdagradState,
    sc_adagrad,
    scale_by_sc_adagrad,
)
from classp_jax.baselines._synaptic_intelligence import (
    SynapticIntelligenceState,
    consolidate,
    synaptic_intelligence,
)

__all__ = [
    "EwcPenaltyState",
    "ScaleByScAdagradState",
    "SynapticIntelligenceState",
    "consolidate",
    "ewc_penalty",
    "fisher_diagonal",
    "mas_importance",
    "sc_adagrad",
    "scale_by_sc_adagrad",
    "set_penalty",
    "synaptic_intelligence",
]
