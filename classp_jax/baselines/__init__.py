"""Other methods to compare CLASSP with: EWC and Synaptic Intelligence, for Optax."""

from classp_jax.baselines._ewc import ewc_penalty, set_penalty
from classp_jax.baselines._fisher import fisher_diagonal
from classp_jax.baselines._penalty import EwcPenaltyState
from classp_jax.baselines._synaptic_intelligence import (
    SynapticIntelligenceState,
    consolidate,
    synaptic_intelligence,
)

__all__ = [
    "EwcPenaltyState",
    "SynapticIntelligenceState",
    "consolidate",
    "ewc_penalty",
    "fisher_diagonal",
    "set_penalty",
    "synaptic_intelligence",
]
