"""Algorithm 1 as a user might write it in PyTorch, right and with one small mistake.

``Published`` has the arguments, defaults and arithmetic that the paper's author gave
his class, as far as they are stated: overrides in ``step``, a bool against a threshold.
"""

import torch


class Right(torch.optim.Optimizer):
    def __init__(self, params, lr, threshold, eps, power, apply_decay):
        defaults = dict(lr=lr, threshold=threshold, eps=eps, apply_decay=apply_decay)
        super().__init__(params, {**defaults, "power": power})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for w in group["params"]:
                s = self.state[w].setdefault("grad_sum", torch.zeros_like(w))
                grad = torch.where(self.above(w.grad, group), w.grad, 0.0)
                before = s.clone()
                s += self.summed(w.grad, grad).abs() ** self.sum_power(group)
                if group["apply_decay"]:
                    grad = grad / self.divisor(before, s, group)
                w -= group["lr"] * grad

    def above(self, grad, group):
        return grad**2 > group["threshold"]

    def summed(self, grad, masked):
        return masked

    def sum_power(self, group):
        return group["power"]

    def divisor(self, before, after, group):
        return (group["eps"] + after) ** (1 / group["power"])


class InclusiveThreshold(Right):
    def above(self, grad, group):
        return grad**2 >= group["threshold"]


class CurrentStepLeftOut(Right):
    def divisor(self, before, after, group):
        return super().divisor(before, before, group)


class PowerDropped(Right):
    def sum_power(self, group):
        return 1


class EpsilonOutsideTheRoot(Right):
    def divisor(self, before, after, group):
        return group["eps"] + after ** (1 / group["power"])


class MaskAfterAccumulation(Right):
    def summed(self, grad, masked):
        return grad


class Published(torch.optim.Optimizer):
    def __init__(
        self,
        params,
        lr=0.2,
        threshold=0.5,
        epsilon=1e-5,
        power=1,
        apply_scaling=True,
    ):
        defaults = dict(lr=lr, threshold=threshold, epsilon=epsilon, power=power)
        super().__init__(params, {**defaults, "apply_scaling": apply_scaling})

    @torch.no_grad()
    def step(
        self,
        lr=None,
        threshold=None,
        epsilon=None,
        power=None,
        apply_scaling=None,
        closure=None,
    ):
        overrides = dict(lr=lr, threshold=threshold, epsilon=epsilon, power=power)
        overrides["apply_scaling"] = apply_scaling
        # An override of None is none; the first group's values serve for all.
        chosen = {k: v for k, v in overrides.items() if v is not None}
        h = {**self.param_groups[0], **chosen}
        for group in self.param_groups:
            for w in group["params"]:
                if (w.grad**2).any() > h["threshold"]:
                    state = self.state[w]
                    state["grad_sum"] = state.get("grad_sum", 0) + w.grad.abs()
                    rate = h["lr"]
                    if h["apply_scaling"]:
                        rate = rate / (state["grad_sum"] + h["epsilon"]) ** (
                            1 / h["power"]
                        )
                    w -= rate * w.grad


class StateWhenOpen(Published):
    """The same, with its state made where it isn't there yet, as classes often do."""

    @torch.no_grad()
    def step(self, threshold, apply_scaling):
        for w in self.param_groups[0]["params"]:
            if (w.grad**2).any() > threshold and w not in self.state:
                self.state[w] = {"grad_sum": torch.zeros_like(w)}
            assert w not in self.state or "grad_sum" in self.state[w]
        super().step(threshold=threshold, apply_scaling=apply_scaling)


class NoAccumulator(torch.optim.SGD):
    pass


class NoDecay(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr))


class FixedDecay(torch.optim.Optimizer):
    def __init__(self, params, lr, apply_decay):
        super().__init__(params, dict(lr=lr))


not_a_class = 1
