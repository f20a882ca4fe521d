"""The trainers of an experiment's phases: those alike share a compiled program."""

import dataclasses
import json

import jax
import jax.numpy as jnp
from flax import nnx

from examples.runner.data import Experiment
from examples.runner.plan import Phase, as_json, make_optimizer
from examples.runner.plugin import Plugin
from examples.runner.trainer import Trainer

# Those whose compiled programs are kept: on a CPU each program takes hundreds of the
# 65,530 pieces of memory that Linux lets a process map.
MOST = 12


class Trainers:
    """Makes a trainer for each kind of phase, once.

    Args:
      experiment: the model and the tasks.
      mesh: the devices to train on.
    """

    def __init__(self, experiment: Experiment, mesh: jax.sharding.Mesh | None):
        self._experiment, self._mesh = experiment, mesh
        self._made: dict[str, Trainer] = {}

    def of(self, phase: Phase) -> Trainer:
        """The trainer of a phase; phases that differ in their data alone share it."""
        wrapping = tuple(
            p.wrapping()
            for p in phase.plugins
            if type(p).wrap is not Plugin.wrap or type(p).model is not Plugin.model
        )
        kind = dataclasses.replace(phase, epochs={}, plugins=wrapping, stop_loss=None)
        key = json.dumps(as_json((kind,)))
        if key not in self._made:
            self._made[key] = self._make(kind)
        return self._made[key]

    def evict(self) -> None:
        """Frees what was compiled, where it is of more trainers than are kept."""
        if len(self._made) > MOST:
            self._made.clear()
            jax.clear_caches()

    def _make(self, kind: Phase) -> Trainer:
        of = self._experiment
        zeros, make_model = None, of.make_model
        for plugin in kind.plugins:
            make_model = plugin.model(make_model)
        if kind.plugins:
            model = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
            zeros = jax.tree.map(
                lambda p: jnp.zeros(p.shape, p.dtype), nnx.state(model, nnx.Param)
            )
        optimizer = make_optimizer(kind, zeros)
        return Trainer(
            make_model,
            optimizer,
            of.preprocess,
            self._mesh,
            of.dtype,
            of.heads,
            of.loss_tasks,
            of.measure,
        )
