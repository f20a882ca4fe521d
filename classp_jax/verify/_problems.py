"""The problems: what both frameworks train, from the same weights and batches."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from classp_jax import _paths, interop
from classp_jax.interop import _conversion, _layout, _torch
from classp_jax.verify._streams import group_params, group_streams
from classp_jax.verify._torch_optimizer import InputError


class Twin(NamedTuple):
    """A problem's weights and loss in PyTorch.

    Attributes:
      parameters: its parameters by PyTorch's names.
      loss: the loss of a batch at the parameters' present values.
      to_jax: tensors by those names, as arrays by JAX's names, in JAX's layout.
      layout: which of its parameters each of JAX's arrays is.
    """

    parameters: dict[str, torch.nn.Parameter]
    loss: Callable[[Any], torch.Tensor]
    to_jax: Callable[[Mapping[str, torch.Tensor]], dict[str, np.ndarray]]
    layout: interop.Layout


class Problem(NamedTuple):
    """A problem in JAX, and how to make its twin in PyTorch.

    Attributes:
      params: the initial weights, a pytree.
      grad: the gradient of the loss of weights and a batch, compiled.
      batch: the batch of a step, a pytree of arrays.
      stream: for each tensor the gradients of all steps, None where it has none, to
        use in lockstep; None where the loss has gradients enough.
      twin: makes the twin, at the initial weights.
      groups: the names of the tensors of each parameter group.
    """

    params: Any
    grad: Callable[[Any, Any], Any]
    batch: Callable[[int], Any]
    stream: dict[str, list[np.ndarray | None]] | None
    twin: Callable[[], Twin]
    groups: list[list[str]]


def plain_twin(params: Any, *, outputs_first: bool = False) -> Twin:
    """Bare parameters in JAX's names, and a least-squares loss.

    They have JAX's layout or, with ``outputs_first``, that of PyTorch's layers.
    """
    arrays = _paths.by_path(params)
    layout = {
        name: interop.Tensor(name, is_kernel=True, transposed=False)
        if outputs_first and np.ndim(p) > 1
        else interop.Tensor(name)
        for name, p in arrays.items()
    }
    entries = _layout.entries(layout)
    parameters = {
        name: torch.nn.Parameter(to_tensor(name, p, layout))
        for name, p in arrays.items()
    }

    def loss(targets: Mapping[str, np.ndarray]) -> torch.Tensor:
        squares = [
            (p - to_tensor(name, targets[name], layout)) ** 2
            for name, p in parameters.items()
        ]
        return torch.stack([square.sum() for square in squares]).sum() / 2

    def to_jax(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        values = {name: _torch.to_numpy(name, t) for name, t in tensors.items()}
        return _conversion.to_jax(entries, values)

    return Twin(parameters, loss, to_jax, layout)


def to_tensor(name: str, array: np.ndarray, layout: Mapping[Any, Any]) -> torch.Tensor:
    """JAX's array of this name as its layout has it in PyTorch."""
    moved = _conversion.to_torch_axes(name, layout[name], np.asarray(array))
    return _torch.to_tensor(name, moved)


def random_problem(
    seed: int,
    steps: int,
    thresholds: Sequence[float],
    sizes: Sequence[tuple[float, float]],
    dtype: Any,
    *,
    finite: bool,
    outputs_first: bool,
) -> Problem:
    """Gradients that reach an optimizer's corners; free-running, least squares."""
    groups = group_params(seed, dtype)
    params = {name: p for group in groups for name, p in group.items()}
    rng = np.random.default_rng(seed + 1)
    targets = {
        name: np.asarray(rng.normal(size=(steps, *p.shape)), dtype)
        for name, p in params.items()
    }

    def loss(params: dict[str, jax.Array], targets: Any) -> jax.Array:
        squares = [jnp.sum((p - targets[name]) ** 2) for name, p in params.items()]
        return jnp.sum(jnp.stack(squares)) / 2

    return Problem(
        params,
        jax.jit(jax.grad(loss)),
        lambda step: {name: target[step] for name, target in targets.items()},
        group_streams(seed + 2, steps, thresholds, sizes, dtype, finite=finite),
        lambda: plain_twin(params, outputs_first=outputs_first),
        [list(group) for group in groups],
    )


def cnn_problem(seed: int, dtype: Any) -> Problem:
    """The paper's CNN (Section 4.1), dropout off, on images with MNIST's statistics."""

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, step])
        # As in MNIST a fifth of the pixels hold ink, in a patch of the class's own.
        labels = rng.integers(0, 10, 32)
        ink = rng.uniform(size=(32, 28, 28, 1))
        for image, label in zip(ink, labels, strict=True):
            top, left = 4 + 8 * (label // 4), 2 + 6 * (label % 4)
            image *= 0.1
            image[top : top + 10, left : left + 10] *= 10
        return np.asarray((ink - 0.1307) / 0.3081, dtype), labels

    cnn = _from_checkout("examples.models.cnn").CNN
    twin = _from_checkout("tests.reference.cnn").CNN

    def to_torch(inputs: np.ndarray) -> torch.Tensor:
        return _torch.to_tensor("inputs", inputs).permute(0, 3, 1, 2)

    return _model_problem(cnn, twin, interop.CNN_LAYOUT, batch, to_torch, seed, dtype)


def transformer_problem(seed: int, dtype: Any) -> Problem:
    """The paper's encoder (Section 4.2), dropout off, on tokens of 1,000 words."""
    words = 1000

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, step])
        return rng.integers(0, words, (32, 30)), rng.integers(0, 3, 32)

    transformer = _from_checkout("examples.models.transformer").Transformer
    twin = _from_checkout("tests.reference.transformer").Transformer
    return _model_problem(
        lambda rngs: transformer(rngs, words),
        lambda: twin(words),
        interop.TRANSFORMER_LAYOUT,
        batch,
        torch.tensor,
        seed,
        dtype,
    )


def _model_problem(
    make: Callable[[Any], Any],
    make_twin: Callable[[], torch.nn.Module],
    layout: interop.Layout,
    batch: Callable[[int], tuple[np.ndarray, np.ndarray]],
    to_torch: Callable[[np.ndarray], torch.Tensor],
    seed: int,
    dtype: Any,
) -> Problem:
    nnx = importlib.import_module("flax.nnx")
    graphdef, params = nnx.split(make(nnx.Rngs(seed)))
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)

    def loss(params: Any, batch: Any) -> jax.Array:
        inputs, labels = batch
        logits = nnx.merge(graphdef, params)(inputs)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def twin() -> Twin:
        module = make_twin().to(_torch.to_tensor("dtype", np.zeros((), dtype)).dtype)
        module.load_state_dict(interop.params_to_torch(params, layout))
        module.eval()

        def twin_loss(batch: Any) -> torch.Tensor:
            inputs, labels = batch
            logits = module(to_torch(inputs))
            return torch.nn.functional.cross_entropy(logits, torch.tensor(labels))

        def to_jax(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
            return {
                name: np.asarray(array)
                for name, array in _paths.by_path(
                    interop.params_from_torch(tensors, layout, params)
                ).items()
            }

        return Twin(dict(module.named_parameters()), twin_loss, to_jax, layout)

    groups = [list(_paths.by_path(params))]
    return Problem(params, jax.jit(jax.grad(loss)), batch, None, twin, groups)


def _from_checkout(module: str) -> Any:
    # The models are examples, and their twins tests: neither is in the wheel.
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"--problem cnn and transformer need {error.name!r}: run the command in a"
            " checkout of classp_jax, with its extra 'test' installed"
        ) from error
