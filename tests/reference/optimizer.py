"""CLASSP in PyTorch, in its three readings, written from the paper."""

import torch


class Classp(torch.optim.Optimizer):
    """One readable loop a reading, to hold the JAX transformations to.

    Args:
      params: parameters, as for any PyTorch optimizer.
      lr: the learning rate, alpha.
      threshold: compared with the squared gradient.
      power: p.
      eps: added to the sum inside the root.
      apply_decay: whether to divide by the root of the sum; a group's entry may be
        changed between steps.
      reading: "algorithm1", "equation1" or "released".
    """

    def __init__(
        self,
        params,
        lr=0.2,
        threshold=0.5,
        power=1.0,
        eps=1e-5,
        apply_decay=True,
        reading="algorithm1",
    ):
        defaults = dict(
            lr=lr, threshold=threshold, power=power, eps=eps, apply_decay=apply_decay
        )
        super().__init__(params, defaults)
        self._step = {
            "algorithm1": _algorithm1,
            "equation1": _equation1,
            "released": _released,
        }[reading]

    @torch.no_grad()
    def step(self, closure=None):
        """Updates every parameter that has a gradient, in place."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                if "grad_sum" not in state:
                    state["grad_sum"] = torch.zeros_like(w)
                self._step(w, w.grad, state["grad_sum"], group)
        return loss


def _root(x, power):
    return x if power == 1 else x.sqrt() if power == 2 else x ** (1 / power)


def _algorithm1(w, grad, grad_sum, group):
    # Line 9, element by element; an element that isn't finite is never above.
    above = (grad**2 > group["threshold"]) & grad.isfinite()
    grad = torch.where(above, grad, 0.0)
    grad_sum += grad.abs() ** group["power"]  # Line 11.
    if group["apply_decay"]:
        grad = grad / _root(group["eps"] + grad_sum, group["power"])  # Line 14.
    w -= group["lr"] * grad  # Line 15.


def _equation1(w, grad, grad_sum, group):
    above = (grad**2 > group["threshold"]) & grad.isfinite()
    step = grad
    if group["apply_decay"]:  # The sum runs to t - 1: this step's comes after.
        step = grad / _root(group["eps"] + grad_sum, group["power"])
    w -= group["lr"] * torch.where(above, step, 0.0)
    grad_sum += torch.where(grad.isfinite(), grad.abs() ** group["power"], 0.0)


def _released(w, grad, grad_sum, group):
    # A bool is compared with the threshold, and |g| is summed whatever the power.
    if bool((grad**2 != 0).any()) > group["threshold"]:
        grad_sum += grad.abs()
        if group["apply_decay"]:
            grad = grad / _root(group["eps"] + grad_sum, group["power"])
        w -= group["lr"] * grad
