"""Methods to compare CLASSP with: EWC, SI, MAS, BGD, MoFO, SC-AdaGrad, UPGD."""

from classp_jax.baselines._bgd import BgdState, bgd, bgd_eval_params
from classp_jax.baselines._ewc import ewc_penalty, set_penalty
from classp_jax.baselines._fisher import fisher_diagonal
from classp_jax.baselines._mas import mas_importance
from classp_jax.baselines._mofo import mofo, scale_by_mofo
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
from classp_jax.baselines._upgd import UpgdState, upgd

__all__ = [
    "BgdState",
    "EwcPenaltyState",
    "ScaleByScAdagradState",
    "SynapticIntelligenceState",
    "UpgdState",
    "bgd",
    "bgd_eval_params",
    "consolidate",
    "ewc_penalty",
    "fisher_diagonal",
    "mas_importance",
    "mofo",
    "sc_adagrad",
    "scale_by_mofo",
    "scale_by_sc_adagrad",
    "set_penalty",
    "synaptic_intelligence",
    "upgd",
]
