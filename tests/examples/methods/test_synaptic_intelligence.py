"""Synaptic Intelligence at the boundaries."""

import dataclasses

import chex
import jax
import numpy as np
import optax

from classp_jax.baselines import consolidate
from examples.methods.synaptic_intelligence import SynapticIntelligence
from examples.runner.run import Runner
from tests.examples.helpers import (
    final_state,
    penalties_of,
    three_phases,
)


def test_synaptic_intelligence_goes_on_across_boundaries(three_tasks, tmp_path):
    runner = Runner(three_tasks, tmp_path)
    phases = tuple(
        dataclasses.replace(p, plugins=(SynapticIntelligence(5.0, damping=0.2),))
        for p in three_phases()
    )
    first, second, third = (final_state(runner, phases[:n]) for n in (1, 2, 3))
    plain = final_state(runner, three_phases()[:1])
    chex.assert_trees_all_close(first.params, plain.params, rtol=1e-6)
    for before, after in ((first, second), (second, third)):
        consolidated = consolidate(before.opt_state, before.params, damping=0.2)
        for key in ("fisher", "anchor"):
            chex.assert_trees_all_close(
                optax.tree.get(after.opt_state, key),
                optax.tree.get(consolidated, key),
                rtol=1e-6,
            )
    assert all(np.all(f >= 0) for f in jax.tree.leaves(penalties_of(third)[0]))
