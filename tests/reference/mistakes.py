"""Algorithm 1 as users might write it in PyTorch: right, and with one mistake each.

``Published`` has the arguments, defaults and arithmetic that the paper's author gave
his class, as far as they are stated: overrides in ``step``, a bool against a threshold.
"""

import torch


class Right(torch.optim.Optimizer):
    def __init__(self, params, lr, threshold, eps, power, apply_decay):
        defaults = dict(lr=lr, threshold=threshold, eps=eps, apply_decay=apply_decay)
        super().__init__(params, {**defaults, "power": power})
        self.count = 0

    @torch.no_grad()
    def step(self):
        self.count += 1
        for group in map(self.used, self.param_groups):
            for w in group["params"]:
                if self.skips(w):
                    continue
                s = self.state[w].setdefault("grad_sum", torch.zeros_like(w))
                given = self.seen(w.grad, w)
                grad = torch.where(self.above(given, group), given, 0.0)
                before = s.clone()
                s += self.summed(given, grad).abs() ** self.sum_power(group)
                self.afterwards(s)
                if self.is_open(group):
                    grad = grad / self.divisor(before, s, group)
                w -= group["lr"] * grad
        self.at_the_end()

    def used(self, group):
        return group

    def skips(self, w):
        return w.grad is None

    def seen(self, grad, w):
        return grad

    def above(self, grad, group):
        return (grad**2 > group["threshold"]) & grad.isfinite()

    def summed(self, grad, masked):
        return masked

    def sum_power(self, group):
        return group["power"]

    def afterwards(self, s):
        pass

    def is_open(self, group):
        return group["apply_decay"]

    def divisor(self, before, after, group):
        return (group["eps"] + after) ** (1 / group["power"])

    def at_the_end(self):
        pass


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


class NeverClosesAgain(Right):
    opened = False

    def is_open(self, group):
        self.opened |= group["apply_decay"]
        return self.opened


class OpensOnce(Right):
    was = False, False

    def is_open(self, group):
        opened, closed = self.was
        closed |= opened and not group["apply_decay"]
        self.was = opened or group["apply_decay"], closed
        return group["apply_decay"] and not closed


class CollectsWhileClosedOnly(Right):
    def summed(self, grad, masked):
        return masked * (not self.param_groups[0]["apply_decay"])


class FirstGroupForAll(Right):
    def used(self, group):
        return {**self.param_groups[0], "params": group["params"]}


class _FirstGroups(Right):
    def used(self, group):
        return {**group, self.key: self.param_groups[0][self.key]}


class FirstGroupsRate(_FirstGroups):
    key = "lr"


class FirstGroupsThreshold(_FirstGroups):
    key = "threshold"


class FirstGroupsEpsilon(_FirstGroups):
    key = "eps"


class FirstGroupsPower(_FirstGroups):
    key = "power"


class FirstGroupsGate(_FirstGroups):
    key = "apply_decay"


class LastGroupForgotten(Right):
    def used(self, group):
        is_last = group is self.param_groups[-1] and len(self.param_groups) > 1
        return {**group, "params": []} if is_last else group


class SecondGroupOfItsOwn(Right):
    def __init__(self, params, lr, **others):
        params = list(params)
        groups = [{"params": params[:1]}, {"params": params[1:], "lr": 10 * lr}]
        super().__init__(groups, lr=lr, **others)


class RateDecays(Right):
    def at_the_end(self):
        self.param_groups[0]["lr"] *= 0.999


class RateHalvedOnce(Right):
    def at_the_end(self):
        if self.count == 60:
            self.param_groups[0]["lr"] /= 2


class ClosesItsGate(Right):
    def at_the_end(self):
        if self.count % 8 == 0:
            self.param_groups[0]["apply_decay"] = False


class _Late(Right):
    def used(self, group):
        before = self.state.setdefault("before", {})
        name = id(group["params"][0])
        value = before.get(name, group[self.key])
        before[name] = group[self.key]
        return {**group, self.key: value}


class LateRate(_Late):
    key = "lr"


class LateThreshold(_Late):
    key = "threshold"


class LateEpsilon(_Late):
    key = "eps"


class LateGate(_Late):
    key = "apply_decay"


class LatePower(_Late):
    key = "power"


class _Stale(Right):
    def __init__(self, params, **values):
        super().__init__(params, **values)
        self.first = [dict(group) for group in self.param_groups]

    def used(self, group):
        (k,) = (k for k, g in enumerate(self.param_groups) if g is group)
        return {**group, self.key: self.first[k][self.key]}


class StaleRate(_Stale):
    key = "lr"


class StaleThreshold(_Stale):
    key = "threshold"


class StaleEpsilon(_Stale):
    key = "eps"


class StalePower(_Stale):
    key = "power"


class FailsWithoutGradient(Right):
    def skips(self, w):
        return False


class StopsAtNone(Right):
    def used(self, group):
        params = group["params"]
        absent = [k for k, w in enumerate(params) if w.grad is None]
        return {**group, "params": params[: min(absent, default=len(params))]}


class LastGradientForNone(Right):
    def skips(self, w):
        kept = self.state[w]
        if w.grad is None and "kept" in kept:
            w.grad = kept["kept"].clone()
        elif w.grad is not None:
            kept["kept"] = w.grad.clone()
        return w.grad is None


class TakesInfinity(Right):
    def above(self, grad, group):
        return grad**2 > group["threshold"]


class TakesNan(Right):
    def above(self, grad, group):
        return ~(grad**2 <= group["threshold"])


class SkipsTensorsWithNan(Right):
    def skips(self, w):
        return w.grad is None or not bool(w.grad.isfinite().all())


class GradientKept(Right):
    """Leaves out a gradient that is the last one again, of which it has no copy."""

    def skips(self, w):
        kept = self.state[w].get("kept")
        self.state[w]["kept"] = w.grad
        if w.grad is None or kept is None:
            return w.grad is None
        return torch.equal(kept, w.grad)


class GradientChanged(Right):
    def seen(self, grad, w):
        return grad.nan_to_num_(0.0, 0.0, 0.0)


class GradientZeroed(Right):
    def at_the_end(self):
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    w.grad.mul_(0)


class CachedGradients(Right):
    cached = None

    def seen(self, grad, w):
        self.cached = self.cached or {}
        return self.cached.setdefault(id(w), grad)


class SumIsTheGradient(Right):
    """Begins the sum with the gradient's own memory."""

    def seen(self, grad, w):
        if "begun" not in self.state[w]:
            self.state[w] |= {"begun": True, "grad_sum": grad}
            grad = grad.clone()
            self.state[w]["grad_sum"].zero_()
        return grad


class ResetNowAndThen(Right):
    def afterwards(self, s):
        if self.count % 50 == 0:
            s.zero_()


class SumClamped(Right):
    def afterwards(self, s):
        s.clamp_(max=1e6)


class SumClampedFarUp(Right):
    def afterwards(self, s):
        s.clamp_(max=1e32)


class SumClampedNowAndThen(Right):
    def afterwards(self, s):
        if self.count % 10 == 0:
            s.clamp_(max=50.0)


class SumAtLeast(Right):
    def afterwards(self, s):
        s.clamp_(min=1e-12)


class SumLeaks(Right):
    def afterwards(self, s):
        s.mul_(0.99999)


class SumLeftOutNowAndThen(Right):
    def summed(self, grad, masked):
        return masked * (self.count % 20 != 0)


class TinyGradientsDropped(Right):
    def seen(self, grad, w):
        return torch.where(grad.abs() < 1e-8, 0.0, grad)


class TiniestGradientsDropped(Right):
    def seen(self, grad, w):
        return torch.where(grad.abs() < 1e-13, 0.0, grad)


class TensorsOfTiniestGradientsSkipped(Right):
    def skips(self, w):
        return w.grad is None or bool(w.grad.abs().max() < 1e-16)


class TinyGradientsDroppedInTheLastGroup(Right):
    def above(self, grad, group):
        least = 1e-8 if group is self.param_groups[-1] else 0
        return super().above(grad, group) & (grad.abs() >= least)


class HugeGradientsClipped(Right):
    def seen(self, grad, w):
        return torch.where(grad.isfinite(), grad.clamp(-1e13, 1e13), grad)


class WeightDecay(Right):
    rate = 1e-6

    def at_the_end(self):
        for group in self.param_groups:
            for w in group["params"]:
                w *= 1 - group["lr"] * self.rate


class WeightDecayNowAndThen(Right):
    def at_the_end(self):
        if self.count % 20 == 0:
            for w in self.param_groups[0]["params"]:
                w *= 1 - 1e-7


class WeightDecayInGradient(Right):
    def seen(self, grad, w):
        return grad + 1e-6 * w


class Momentum(Right):
    def seen(self, grad, w):
        m = self.state[w].setdefault("momentum", torch.zeros_like(w))
        m.mul_(0.1).add_(grad.nan_to_num(0.0, 0.0, 0.0))
        return torch.where(grad.isfinite(), grad + 1e-4 * m, grad)


class CountInRate(Right):
    def used(self, group):
        return {**group, "lr": group["lr"] * self.count / (self.count + 1e-4)}


class SkipsEveryTenthStep(Right):
    def used(self, group):
        return {**group, "params": [] if self.count % 10 == 9 else group["params"]}


class SquareWhateverThePower(Right):
    def sum_power(self, group):
        return 1 if group["power"] == 1 else 2

    def divisor(self, before, after, group):
        root = 1 if group["power"] == 1 else 2
        return (group["eps"] + after) ** (1 / root)


class ScalarsLeftOut(Right):
    def skips(self, w):
        return w.grad is None or w.ndim == 0


class VectorsShareADivisor(Right):
    def divisor(self, before, after, group):
        after = after.mean() if after.ndim == 1 else after
        return super().divisor(before, after, group)


class KernelsLeftOut(Right):
    def skips(self, w):
        return w.grad is None or w.ndim == 4


class SquaresTransposed(Right):
    def summed(self, given, grad):
        return grad.T if grad.ndim == 2 and len({*grad.shape}) == 1 else grad


class HalfPrecisionSum(Right):
    def afterwards(self, s):
        s.copy_(s.to(torch.bfloat16))


class FailsLater(Right):
    def at_the_end(self):
        if self.count == 70:
            raise RuntimeError("no more")


MISTAKES = sorted(
    name
    for name, thing in globals().items()
    if isinstance(thing, type) and issubclass(thing, Right)
    if thing is not Right and not name.startswith("_")
)


class Foreach(Right):
    """All tensors of a group at once, and the sum in float64."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            grads = [w.grad.nan_to_num(0.0, 0.0, 0.0) for w in weights]
            grads = [g * (g * g > group["threshold"]) for g in grads]
            sums = []
            for w in weights:
                if not self.state[w]:
                    wide = torch.zeros_like(w, dtype=torch.float64)
                    self.state[w] |= {"steps": 0, "grad_sum": wide}
                self.state[w]["steps"] += 1
                sums.append(self.state[w]["grad_sum"])
            terms = torch._foreach_pow(torch._foreach_abs(grads), group["power"])
            torch._foreach_add_(sums, terms)
            if group["apply_decay"]:
                roots = torch._foreach_add(sums, group["eps"])
                torch._foreach_pow_(roots, 1 / group["power"])
                grads = torch._foreach_div(grads, [r.to(torch.float32) for r in roots])
            torch._foreach_add_(weights, grads, alpha=-group["lr"])
        return loss


class InPlace(torch.optim.Optimizer):
    """State from the start, operations in place, its gate in ``step``."""

    def __init__(self, params, lr=0.2, threshold=0.5, epsilon=1e-5, power=1):
        defaults = dict(lr=lr, threshold=threshold, epsilon=epsilon, power=power)
        super().__init__(params, defaults)
        for group in self.param_groups:
            for w in group["params"]:
                self.state[w]["grad_sum"] = torch.zeros_like(w.data)
                self.state[w]["kept"] = torch.zeros_like(w.data)

    def step(self, closure=None, *, apply_scaling):
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                state, g = self.state[w], w.grad.detach().clone()
                state["kept"].copy_(g)
                g[~torch.isfinite(g) | (g.square() <= group["threshold"])] = 0
                state["grad_sum"].add_(g.abs().pow_(group["power"]))
                if apply_scaling:
                    root = state["grad_sum"].add(group["epsilon"])
                    root.pow_(1 / group["power"])
                    w.data.addcdiv_(g, root, value=-group["lr"])
                else:
                    w.data.add_(g, alpha=-group["lr"])


class HandsOn(Right):
    """Its arguments those of the class that it extends, its weights new tensors."""

    def __init__(self, params, *args, **others):
        super().__init__(params, *args, **others)

    def step(self, *args, **others):
        for group in self.param_groups:
            for w in group["params"]:
                w.data = w.data.clone()
        return super().step(*args, **others)


class InDescent(Right):
    """Its sum under no name of the state's, and its hyperparameters copied."""

    def __init__(self, params, **values):
        super().__init__(params, **values)
        self.sums = {}

    @torch.no_grad()
    def step(self):
        for lr, threshold, eps, power, gate, weights in [
            (*(g[k] for k in ("lr", "threshold", "eps", "power", "apply_decay")), ws)
            for g in self.param_groups
            for ws in [g["params"]]
        ]:
            for w in weights:
                if w.grad is not None:
                    passes = w.grad.isfinite() & (w.grad.abs() > threshold**0.5)
                    g = w.grad.masked_fill(~passes, 0)
                    self.sums[w] = self.sums.get(w, 0) + g.abs() ** power
                    step = lr / (eps + self.sums[w]) ** (1 / power) if gate else lr
                    w.sub_(step * g)


RIGHT = ["Foreach", "HandsOn", "InDescent", "InPlace", "Right"]


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
                if w.grad is None:
                    continue
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
            if w.grad is None:
                continue
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
