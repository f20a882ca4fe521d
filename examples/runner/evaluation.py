"""A model as a function of its parameters, and how much of a data set it gets right."""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from examples.runner import layers, sharding
from examples.runner.data import Array
from examples.runner.stored import Stored

# A model's parameters by their paths.
Params = nnx.State[str | int, Any]
# Examples evaluated at once: what fits a CPU's cache; elsewhere few steps are better.
_ON_CPU, _ON_ACCELERATORS = 50, 1000
_PART = 1000  # Of stored examples in memory at once; a multiple of both.


class Accuracy(NamedTuple):
    """The share of inputs classified correctly, 0 to 1.

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
    """

    graphdef: Any
    preprocess: Preprocess
    heads: tuple[int, ...] | None

    def logits(
        self, params: Params, inputs: jax.Array, dropout_key: jax.Array | None
    ) -> jax.Array:
        """What the model makes of inputs, (n, classes); with a key dropout is on."""
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
        return jnp.where(heads == heads[labels][:, None], logits, -jnp.inf)


def _dropout_rngs(key: jax.Array | None) -> nnx.Rngs | None:
    return None if key is None else nnx.Rngs(dropout=key)


@functools.partial(jax.jit, static_argnums=0)
def accuracy(
    classifier: Classifier,
    params: Params,
    inputs: jax.Array,
    labels: jax.Array,
    dropout_key: jax.Array | None,
    first: jax.typing.ArrayLike = 0,
) -> Accuracy:
    """The share of inputs classified correctly.

    Args:
      classifier: the model.
      params: its parameters.
      inputs: (n, ...).
      labels: (n,), integer.
      dropout_key: to evaluate with dropout left on as well.
      first: how many batches were evaluated before these, of which dropout draws anew.

    Returns:
      The accuracies.
    """

    def correct(inputs: jax.Array, labels: jax.Array, index: Any) -> jax.Array:
        keys: list[jax.Array | None] = [None]
        if dropout_key is not None:
            keys.append(jax.random.fold_in(dropout_key, index))
        logits = [classifier.logits(params, inputs, key) for key in keys]
        logits = [classifier.mask_other_heads(x, labels) for x in logits]
        return jnp.stack([jnp.sum(jnp.argmax(x, -1) == labels) for x in logits])

    # In batches, so that a whole data set fits; what is left over makes the last one.
    size = _batch_size()
    batches = len(labels) // size
    whole = batches * size
    counts = jnp.zeros([], jnp.int32)
    if batches:
        split = [
            x[:whole].reshape(batches, size, *x.shape[1:]) for x in (inputs, labels)
        ]
        parts = jax.lax.map(
            lambda x: correct(*x), (*split, first + jnp.arange(batches))
        )
        counts += parts.sum(0)
    if whole < len(labels):
        counts += correct(inputs[whole:], labels[whole:], first + batches)
    shares = counts / len(labels)
    return Accuracy(shares[0], shares[1] if dropout_key is not None else None)


def accuracy_in_parts(
    classifier: Classifier,
    params: Params,
    inputs: Array | Stored,
    labels: Array,
    dropout_key: jax.Array | None,
) -> Accuracy:
    """As :func:`accuracy`, of which stored inputs are read a thousand at a time."""
    if not isinstance(inputs, Stored):
        whole: Accuracy = accuracy(classifier, params, inputs, labels, dropout_key)
        return whole
    starts = range(0, len(inputs), _PART)
    parts = []
    for start in starts:
        part = slice(start, start + _PART)
        examples = sharding.place(
            (inputs[part], labels[part]), classifier.preprocess.mesh, shard=False
        )
        of = accuracy(
            classifier, params, *examples, dropout_key, start // _batch_size()
        )
        # The counts, whole numbers that float32 holds, as of all at once.
        count = len(examples[1])
        parts.append(jax.tree.map(lambda x, n=count: jnp.round(x * n), of))
    shares: Accuracy = jax.tree.map(lambda *of: sum(of) / len(inputs), *parts)
    return shares


def _batch_size() -> int:
    return _ON_CPU if jax.default_backend() == "cpu" else _ON_ACCELERATORS
