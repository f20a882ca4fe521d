"""The layers of a network: what their weights are multiplied by, and as matrices."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

Layer = tuple[str, ...]
"""A layer's path in its model."""


def inputs(
    model: nnx.Module, *args: Any, **kwargs: Any
) -> OrderedDict[Layer, jax.Array]:
    """Calls a model, and gives what each of its layers multiplied by its weights.

    Args:
      model: its ``nnx.Linear`` and two-dimensional ``nnx.Conv`` are the layers; their
        products are taken over, so that it must be one of the caller's own, such as
        ``nnx.merge`` makes.
      *args: to call it with.
      **kwargs: likewise.

    Returns:
      Of each layer, in the order of the calls, (batch, ..., inputs): such that a
      product with its matrix of :func:`matrices` is what the layer makes; with a 1
      behind the inputs if it has a bias. Of a convolution these are the patches, with
      their places before.

    Raises:
      ValueError: a layer is called twice, or a convolution has groups or dilation.
    """
    found: OrderedDict[Layer, jax.Array] = OrderedDict()  # Whose order a jit keeps.
    for path, layer in nnx.iter_modules(model):
        name = tuple(map(str, path))
        if isinstance(layer, nnx.Linear):
            layer.dot_general = _recording(layer.dot_general, found, name, layer)
        elif isinstance(layer, nnx.Conv):
            layer.conv_general_dilated = _recording(
                layer.conv_general_dilated, found, name, layer, patches
            )
    model(*args, **kwargs)
    return found


def matrices(tree: optax.Params) -> dict[Layer, jax.Array]:
    """The kernels of a tree like the weights, each with its bias as the last row.

    Args:
      tree: weights, gradients or updates.

    Returns:
      Of each layer (inputs, outputs), or with the bias (inputs + 1, outputs).
    """
    leaves = {_path(path): leaf for path, leaf in _leaves(tree)}
    found = {}
    for (*layer, name), leaf in leaves.items():
        if name == "kernel":
            rows = [leaf.reshape(-1, leaf.shape[-1])]
            if (bias := leaves.get((*layer, "bias"))) is not None:
                rows.append(bias[None])
            found[tuple(layer)] = jnp.concatenate(rows)
    return found


def with_matrices(tree: optax.Params, by: dict[Layer, jax.Array]) -> optax.Params:
    """A tree like the weights, with other matrices in some of its layers.

    Args:
      tree: as :func:`matrices` takes it.
      by: of some layers, as :func:`matrices` gives them.

    Returns:
      The tree with these; what is of no such layer is as before.
    """

    def replaced(path: Any, leaf: jax.Array) -> jax.Array:
        *layer, name = _path(path)
        if tuple(layer) not in by or name not in ("kernel", "bias"):
            return leaf
        matrix = by[tuple(layer)]
        if name == "kernel":
            matrix = matrix[: leaf.size // leaf.shape[-1]]
        else:
            matrix = matrix[-1]
        return matrix.reshape(leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(replaced, tree)


def _leaves(tree: optax.Params) -> list[tuple[Any, jax.Array]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _path(path: Any) -> Layer:
    # A leaf may be in a Flax variable.
    keys = jax.tree_util.keystr(path, simple=True, separator="\0")
    return tuple(keys.removesuffix("\0value").split("\0"))


def _recording(
    product: Callable[..., jax.Array],
    found: dict[Layer, jax.Array],
    name: Layer,
    layer: nnx.Linear | nnx.Conv,
    rows_of: Callable[..., jax.Array] = lambda x, *args, **kwargs: x,
) -> Callable[..., jax.Array]:
    """A layer's product, which keeps what its weights are multiplied by."""

    def recorded(x: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> Any:
        if name in found:
            raise ValueError(f"Layer {'.'.join(name)} is called twice.")
        rows = rows_of(x, kernel, *args, **kwargs)
        if layer.use_bias:
            rows = jnp.concatenate([rows, jnp.ones_like(rows[..., :1])], axis=-1)
        found[name] = rows
        return product(x, kernel, *args, **kwargs)

    return recorded


def patches(
    images: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, ...],
    padding: Any,
    *,
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    feature_group_count: int,
    **kwargs: Any,
) -> jax.Array:
    """What a two-dimensional convolution multiplies by its kernel.

    Args:
      images: (batch, height, width, channels).
      kernel: (rows, columns, channels, outputs), of which the shape matters alone.
      strides: of both axes.
      padding: ``SAME``, ``VALID`` or (before, behind) of both axes.
      lhs_dilation: must be 1.
      rhs_dilation: likewise.
      feature_group_count: likewise.
      **kwargs: whatever else ``lax.conv_general_dilated`` takes; unused.

    Returns:
      (batch, rows, columns, inputs): of each place that the kernel comes to what it
      covers there, in the order of the kernel's axes.

    Raises:
      ValueError: the convolution has groups or dilation.
    """
    del kwargs
    if {*lhs_dilation, *rhs_dilation, feature_group_count} != {1}:
        raise ValueError("A convolution must be without groups and dilation.")
    size = kernel.shape[:2]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(images.shape[1:3], size, strides, padding)
    images = jnp.pad(images, [(0, 0), *padding, (0, 0)])
    places = [
        (whole - part) // step + 1
        for whole, part, step in zip(images.shape[1:3], size, strides, strict=True)
    ]
    rows, columns = (
        slice(0, step * (count - 1) + 1, step)
        for step, count in zip(strides, places, strict=True)
    )
    return jnp.concatenate(
        [
            images[:, i:, j:][:, rows, columns]
            for i in range(size[0])
            for j in range(size[1])
        ],
        axis=-1,
    )
