"""Sums of directions as users might write them in PyTorch: right, and with mistakes."""

import torch


class Right(torch.optim.Optimizer):
    """Outputs by inputs, in the weight's dtype throughout."""

    def __init__(
        self, params, lr, threshold, damping, exponent, refresh_every, apply_decay
    ):
        defaults = dict(lr=lr, threshold=threshold, damping=damping, exponent=exponent)
        defaults |= dict(refresh_every=refresh_every, apply_decay=apply_decay)
        super().__init__(params, defaults)
        self.count = 0

    @torch.no_grad()
    def step(self):
        for group in map(self.used, self.param_groups):
            for w in group["params"]:
                self.update(w, self.state[w], group)
        self.count += 1

    def update(self, w, state, group):
        has_grad = w.grad is not None
        if has_grad:
            grad = torch.where(w.grad.isfinite(), w.grad, 0.0)
            masked = torch.where(grad**2 > group["threshold"], grad, 0.0)
            g = self.matrix(self.summed(grad, masked))
            state["before"] = state.get("gram", torch.zeros_like(g.T @ g))
            state["gram"] = state["before"] + self.share(group) * (g.T @ g)
        if "gram" in state and self.is_refresh(state, has_grad, group):
            state["factor"] = self.factor(self.known(state), group)
        if has_grad:
            if group["apply_decay"] and "factor" in state:
                factor = self.used_factor(state, group)
                masked = (self.matrix(masked) @ factor).reshape(w.shape)
            w -= group["lr"] * masked

    def used(self, group):
        return group

    def matrix(self, g):
        return g.reshape(len(g), -1) if g.ndim else g.reshape(1, 1)

    def summed(self, grad, masked):
        return masked

    def share(self, group):
        return 1

    def is_refresh(self, state, has_grad, group):
        return self.count % group["refresh_every"] == 0

    def known(self, state):
        return state["gram"]

    def factor(self, gram, group):
        eye = torch.eye(len(gram), dtype=gram.dtype)
        values, vectors = torch.linalg.eigh(eye + gram / group["damping"])
        return vectors * values.clamp(min=1) ** -group["exponent"] @ vectors.T

    def used_factor(self, state, group):
        return state["factor"]


class OutputsForInputs(Right):
    def matrix(self, g):
        return super().matrix(g).T


class ChannelsForInputs(Right):
    """Of a window each place has a gradient of its own."""

    def matrix(self, g):
        if g.ndim < 3:
            return super().matrix(g)
        return g.movedim(1, -1).reshape(-1, g.shape[1])


class EachBiasAnInput(Right):
    def matrix(self, g):
        return g.reshape(1, -1) if g.ndim == 1 else super().matrix(g)


class WeightsForDirections(Right):
    def known(self, state):
        return torch.diag(torch.diag(state["gram"]))


class ExponentDropped(Right):
    def factor(self, gram, group):
        return super().factor(gram, {**group, "exponent": 1.0})


class DampingLeftInFront(Right):
    def factor(self, gram, group):
        scale = group["damping"] ** -group["exponent"]
        return scale * super().factor(gram, group)


class DampingReadAtEachStep(Right):
    def used_factor(self, state, group):
        return self.factor(state["at_refresh"], group)

    def known(self, state):
        state["at_refresh"] = state["gram"]
        return state["gram"]


class PresentLeftOut(Right):
    def known(self, state):
        return state["before"]


class RefreshedAtEachStep(Right):
    def is_refresh(self, state, has_grad, group):
        return True


class RefreshedAStepLate(Right):
    def is_refresh(self, state, has_grad, group):
        return self.count % group["refresh_every"] == 1


class RefreshedWithGradientsAlone(Right):
    def is_refresh(self, state, has_grad, group):
        return has_grad and super().is_refresh(state, has_grad, group)


class CountsOwnSteps(Right):
    def is_refresh(self, state, has_grad, group):
        state["steps"] = state.get("steps", -1) + has_grad
        return has_grad and state["steps"] % group["refresh_every"] == 0


class CollectsWhileClosedOnly(Right):
    def share(self, group):
        return not group["apply_decay"]


class MaskAfterTheSum(Right):
    def summed(self, grad, masked):
        return grad


class FirstGroupsDamping(Right):
    def used(self, group):
        return {**group, "damping": self.param_groups[0]["damping"]}


MISTAKES = sorted(cls.__name__ for cls in Right.__subclasses__())
