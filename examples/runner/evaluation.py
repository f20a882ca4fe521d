"""A model as a function of its parameters, and how well it does on a data set."""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from examples.runner import layers, sharding
from examples.runner.data import Array
from examples.runner.stored import Stored

# A model's parameters by their paths.
Params = nnx.State[str | int, Any]
# Examples evaluated at once: what fits a CPU's cache; elsewhere few steps are better.
_ON_CPU, _ON_ACCELERATORS = 50, 1000
_PART = 1000  # Of stored examples in memory at once; a multiple of both.


def _is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.argmax(logits, -1) == labels


def _bits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    nats: jax.Array = optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels
    )
    return nats / jnp.log(2.0)


MEASURES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "accuracy": _is_correct,
    "bits": _bits,
}
"""What is measured, the mean over all labels, by what the rows call it.

``accuracy`` is the share classified correctly, 0 to 1, and ``bits`` the cross-entropy
in bits a label. Each is computed from logits, (..., classes), and labels, (...).
"""


class Evaluation(NamedTuple):
    """What a model reaches on some data, in the experiment's measure.

    Attributes:
      dropout_off: as a model is usually evaluated.
      dropout_on: with dropout left on; None if no key was given for it.
    """

    dropout_off: jax.Array
    dropout_on: jax.Array | None


class Preprocess(NamedTuple):
    """What happens to a batch's inputs first; equal for equal parts.

    Attributes:
      function: of the experiment.
      mesh: the devices among which a batch is cut.
      dtype: of the activations.
    """

    function: Callable[[jax.Array], jax.Array]
    mesh: jax.sharding.Mesh | None
    dtype: jax.typing.DTypeLike

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Gives what the model takes."""
        x = self.function(sharding.shard_batch(inputs, self.mesh))
        return x.astype(self.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x


class Classifier(NamedTuple):
    """A model without its parameters; equal ones share what is compiled.

    Attributes:
      graphdef: of the NNX module.
      preprocess: what happens to a batch's inputs first.
      heads: of each class the head that it belongs to; None if all are of one.
      measure: what is measured, of :data:`MEASURES`.
    """

    graphdef: Any
    preprocess: Preprocess
    heads: tuple[int, ...] | None
    measure: str = "accuracy"

    def logits(
        self, params: Params, inputs: jax.Array, dropout_key: jax.Array | None
    ) -> jax.Array:
        """What the model makes of inputs, (n, ..., classes); dropout is on with a key.

        Between n and classes are the positions, where labels have some.
        """
        model = nnx.merge(self.graphdef, params)
        logits: jax.Array = model(
            self.preprocess(inputs), dropout_rngs=_dropout_rngs(dropout_key)
        )
        return logits

    def layer_inputs(
        self, params: Params, inputs: jax.Array, dropout_key: jax.Array | None
    ) -> OrderedDict[layers.Layer, jax.Array]:
        """What its layers multiply by their weights, as :func:`.layers.inputs` does."""
        return layers.inputs(
            nnx.merge(self.graphdef, params),
            self.preprocess(inputs),
            dropout_rngs=_dropout_rngs(dropout_key),
        )

    def mask_other_heads(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """The logits of the label's head; the others are minus infinity."""
        if self.heads is None:
            return logits
        heads = jnp.array(self.heads)
        return jnp.where(heads == heads[labels][..., None], logits, -jnp.inf)


def _dropout_rngs(key: jax.Array | None) -> nnx.Rngs | None:
    return None if key is None else nnx.Rngs(dropout=key)


def evaluate(
    classifier: Classifier,
    params: Params,
    inputs: Array | Stored,
    labels: Array,
    dropout_key: jax.Array | None,
) -> Evaluation:
    """The mean of a model's measure over all labels.

    Args:
      classifier: the model.
      params: its parameters.
      inputs: (n, ...); stored ones are read a thousand at a time.
      labels: (n,) or (n, positions), integer.
      dropout_key: to evaluate with dropout left on as well.

    Returns:
      With dropout off, and on.
    """
    if not isinstance(inputs, Stored):
        totals = _totals(classifier, params, inputs, labels, dropout_key, 0)
    else:
        parts = []
        for start in range(0, len(inputs), _PART):
            part = slice(start, start + _PART)
            examples = sharding.place(
                (inputs[part], labels[part]), classifier.preprocess.mesh, shard=False
            )
            before = start // _batch_size()
            parts.append(_totals(classifier, params, *examples, dropout_key, before))
        totals = sum(parts)
    means = _means(totals, labels.size)
    return Evaluation(means[0], means[1] if dropout_key is not None else None)


@functools.partial(jax.jit, static_argnums=0)
def _totals(
    classifier: Classifier,
    params: Params,
    inputs: jax.Array,
    labels: jax.Array,
    dropout_key: jax.Array | None,
    first: jax.typing.ArrayLike,
) -> jax.Array:
    """The measure's sums over all labels, with dropout off and, with a key, on.

    ``first`` batches were evaluated before, after which dropout draws anew.
    """
    measure = MEASURES[classifier.measure]

    def total(inputs: jax.Array, labels: jax.Array, index: Any) -> jax.Array:
        keys: list[jax.Array | None] = [None]
        if dropout_key is not None:
            keys.append(jax.random.fold_in(dropout_key, index))
        logits = [classifier.logits(params, inputs, key) for key in keys]
        logits = [classifier.mask_other_heads(x, labels) for x in logits]
        return jnp.stack([jnp.sum(measure(x, labels)) for x in logits])

    # In batches, so that a whole data set fits; what is left over makes the last one.
    size = _batch_size()
    batches = len(labels) // size
    whole = batches * size
    totals = jnp.zeros([], jnp.int32)
    if batches:
        split = [
            x[:whole].reshape(batches, size, *x.shape[1:]) for x in (inputs, labels)
        ]
        indices = first + jnp.arange(batches)
        totals += jax.lax.map(lambda x: total(*x), (*split, indices)).sum(0)
    if whole < len(labels):
        totals += total(inputs[whole:], labels[whole:], first + batches)
    return totals


# Compiled, so that rows stay what they were: eager division rounds otherwise.
@functools.partial(jax.jit, static_argnums=1)
def _means(totals: jax.Array, count: int) -> jax.Array:
    return totals / count


def _batch_size() -> int:
    return _ON_CPU if jax.default_backend() == "cpu" else _ON_ACCELERATORS
