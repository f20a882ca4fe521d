"""CLASSP in PyTorch, to compare with: the paper's variants and per-direction sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class _Optimizer(torch.optim.Optimizer):
    """What steps group by group."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient, in place."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update_group(group)
        return loss

    def _update_group(self, group: dict[str, Any]) -> None:
        raise NotImplementedError


class Classp(_Optimizer):
    """The paper's variants of CLASSP, with one readable function for each.

    Sums and steps have at least float32, like those of the JAX transformations.

    Args:
      params: parameters, as for any PyTorch optimizer.
      lr: the learning rate.
      threshold: compared with the squared gradient.
      power: the power p of the gradient sum.
      eps: added to the sum inside the root.
      apply_decay: whether to divide by the root of the sum. It may change between steps
        in ``param_groups``, and so may all of these.
      reading: "algorithm1", "equation1" or "released".
      relative: whether the threshold is in units of the tensor's mean square, for the
        first two readings.
      factored: whether to keep only the sums of a tensor's rows and columns, for the
        first two readings; ``grad_sum`` then has the estimate for each weight.
      memory: the steps in which a sum without gradients falls to 1/e, for the first two
        readings.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 0.2,
        threshold: float = 0.5,
        power: float = 1.0,
        eps: float = 1e-5,
        apply_decay: bool = True,
        reading: str = "algorithm1",
        relative: bool = False,
        factored: bool = False,
        memory: float = math.inf,
    ) -> None:
        defaults = dict(
            lr=lr,
            threshold=threshold,
            power=power,
            eps=eps,
            apply_decay=apply_decay,
            relative=relative,
            factored=factored,
            memory=memory,
        )
        super().__init__(params, defaults)
        self._update = {
            "algorithm1": _algorithm1,
            "equation1": _equation1,
            "released": _released,
        }[reading]

    def _update_group(self, group: dict[str, Any]) -> None:
        for w in group["params"]:
            if w.grad is None:
                continue
            state = self.state[w]
            if "grad_sum" not in state:
                wide = torch.promote_types(w.dtype, torch.float32)
                state["grad_sum"] = torch.zeros_like(w, dtype=wide)
            update = self._update(w.grad, state, group)
            w -= (group["lr"] * update).to(w.dtype)


class ClasspGram(_Optimizer):
    """``classp_gram`` with full sums, to compare with the JAX transformation.

    With G the gradient of a weight as a matrix, inputs by outputs::

        L += G Gᵀ,  w -= lr (I + L / damping)^(-exponent) G

    The first axis of a weight counts its outputs, and all others, flattened, its
    inputs, as in ``torch.nn.Linear`` and ``Conv2d``. A bias has one input, which is 1.
    The state of a weight is L, "gram", and the factor as of the last refresh, "factor".
    Both are (inputs, inputs), or (blocks, d, d) with more inputs than ``max_dim``.

    Args:
      params: parameters, as for any PyTorch optimizer.
      lr: the learning rate.
      damping: in units of the squared gradient.
      threshold: as for :class:`Classp`.
      exponent: the exponent q.
      refresh_every: steps from one refresh of the factor to the next; the first is at
        the first step.
      max_dim: the largest number of inputs of a block.
      apply_decay: whether to multiply by the factor.
      relative: as for :class:`Classp`.
      memory: as for :class:`Classp`.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 0.05,
        damping: float = 1.0,
        threshold: float = 0.0,
        exponent: float = 1.0,
        refresh_every: int = 10,
        max_dim: int = 1024,
        apply_decay: bool = True,
        relative: bool = False,
        memory: float = math.inf,
    ) -> None:
        defaults = dict(
            lr=lr,
            damping=damping,
            threshold=threshold,
            exponent=exponent,
            refresh_every=refresh_every,
            max_dim=max_dim,
            apply_decay=apply_decay,
            relative=relative,
            memory=memory,
            steps=0,
        )
        super().__init__(params, defaults)

    def _update_group(self, group: dict[str, Any]) -> None:
        is_refresh = group["steps"] % group["refresh_every"] == 0
        group["steps"] += 1
        for w in group["params"]:
            state = self.state[w]
            if w.grad is not None:
                grad = w.grad.to(torch.promote_types(w.dtype, torch.float32))
                grad = torch.where(_passes_threshold(grad, group), grad, 0.0)
                inputs = _inputs_by_outputs(grad, group["max_dim"])
                products = inputs @ inputs.mT
                before = state.get("gram", torch.zeros_like(products))
                state["gram"] = before - before / group["memory"] + products
            if is_refresh and "gram" in state:  # Also where there is no gradient.
                state["factor"] = _power_of_sum(state["gram"], group)
            if w.grad is None:
                continue
            if group["apply_decay"] and "factor" in state:
                grad = _as_weight(state["factor"] @ inputs, grad)
            w -= (group["lr"] * grad).to(w.dtype)


def _inputs_by_outputs(grad: torch.Tensor, max_dim: int) -> torch.Tensor:
    """(inputs, outputs), or (blocks, d, outputs) with rows of 0 behind the last."""
    x = torch.where((grad**2).isfinite(), grad, 0.0)
    x = x.reshape(len(x) if x.ndim else 1, -1).T
    blocks = -(-len(x) // max_dim)
    if blocks == 1:
        return x
    height = -(-len(x) // blocks)
    padded = torch.nn.functional.pad(x, (0, 0, 0, blocks * height - len(x)))
    return padded.reshape(blocks, height, -1)


def _as_weight(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    outputs = x.shape[-1]
    inputs = like.numel() // outputs
    return x.reshape(-1, outputs)[:inputs].T.reshape(like.shape)


def _power_of_sum(gram: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """By eigenvectors, in float64: what is compared with this may round more."""
    values, vectors = torch.linalg.eigh(gram.double())
    scale = (1 + values.clamp(min=0) / group["damping"]) ** -group["exponent"]
    factor: torch.Tensor = (vectors * scale[..., None, :]) @ vectors.mT
    return factor.to(gram.dtype)


def _root(x: torch.Tensor, power: float) -> torch.Tensor:
    if power == 1:
        return x
    return x.sqrt() if power == 2 else x.pow(1 / power)


def _passes_threshold(grad: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    square, finite, threshold = grad**2, grad.isfinite(), group["threshold"]
    if group["relative"]:
        threshold = threshold * square[finite].mean()
    above: torch.Tensor = (square > threshold) & finite
    return above


def _collect(
    state: dict[str, Any], terms: torch.Tensor, group: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forgets, and adds a step's terms; returns the sum before and with them."""
    grad_sum: torch.Tensor = state["grad_sum"]
    before = grad_sum.clone()
    grad_sum -= grad_sum / group["memory"]
    rows, columns = terms.shape[:-1].numel(), terms.shape[-1:].numel()
    if not group["factored"] or rows + columns >= terms.numel():
        grad_sum += terms
        return before, grad_sum
    now = grad_sum + terms
    for name, new in (
        ("rows", terms.sum(-1)),
        ("columns", terms.flatten(0, -2).sum(0)),
    ):
        s = state.get(name, torch.zeros_like(new))
        state[name] = s - s / group["memory"] + new
    if state["rows"].any():
        share = state["columns"] / state["rows"].sum()
        grad_sum.copy_(state["rows"][..., None] * share)
    return before, now


def _algorithm1(
    grad: torch.Tensor, state: dict[str, Any], group: dict[str, Any]
) -> torch.Tensor:
    grad = grad.to(state["grad_sum"].dtype)
    # Line 9, element by element; an element that isn't finite is never above.
    grad = torch.where(_passes_threshold(grad, group), grad, 0.0)
    _, grad_sum = _collect(state, grad.abs() ** group["power"], group)  # Line 11.
    if group["apply_decay"]:
        grad = grad / _root(group["eps"] + grad_sum, group["power"])  # Line 14.
    return grad


def _equation1(
    grad: torch.Tensor, state: dict[str, Any], group: dict[str, Any]
) -> torch.Tensor:
    grad = grad.to(state["grad_sum"].dtype)
    terms = torch.where(grad.isfinite(), grad.abs() ** group["power"], 0.0)
    grad_sum, _ = _collect(state, terms, group)  # To t - 1.
    step = grad
    if group["apply_decay"]:
        step = grad / _root(group["eps"] + grad_sum, group["power"])
    return torch.where(_passes_threshold(grad, group), step, 0.0)


def _released(
    grad: torch.Tensor, state: dict[str, Any], group: dict[str, Any]
) -> torch.Tensor:
    # A bool is compared with the threshold, and |g| is summed whatever the power.
    if not bool((grad**2 != 0).any()) > group["threshold"]:
        return torch.zeros_like(grad)
    grad_sum = state["grad_sum"]
    grad = grad.to(grad_sum.dtype)
    grad_sum += grad.abs()
    if group["apply_decay"]:
        grad = grad / _root(group["eps"] + grad_sum, group["power"])
    return grad
