"""CLASSP with sums of directions in PyTorch: by eigenvectors, at every step."""

import torch


class ClasspGram(torch.optim.Optimizer):
    def __init__(self, params, lr, damping, exponent, max_dim, memory):
        defaults = dict(lr=lr, damping=damping, exponent=exponent, max_dim=max_dim)
        defaults["memory"] = memory
        super().__init__(params, {**defaults, "apply_decay": True})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                g = w.grad.reshape(-1, w.shape[-1] if w.ndim else 1)
                blocks = -(-len(g) // group["max_dim"])
                parts = torch.split(g, -(-len(g) // blocks))
                state = self.state[w]
                if not state:
                    state["gram"] = [g.new_zeros(len(x), len(x)) for x in parts]
                update = []
                for x, gram in zip(parts, state["gram"], strict=True):
                    gram -= gram / group["memory"]
                    gram += x @ x.T
                    values, vectors = torch.linalg.eigh(gram)
                    scale = (1 + values / group["damping"]) ** -group["exponent"]
                    update.append(vectors @ (scale[:, None] * (vectors.T @ x)))
                if group["apply_decay"]:
                    g = torch.cat(update)
                w -= group["lr"] * g.reshape(w.shape)
