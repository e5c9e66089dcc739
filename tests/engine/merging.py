"""Token merging written from the paper's formulas, with loops, in float64."""

import torch


def cosine(a, b):
    return float(a @ b) / max(float(a.norm()) * float(b.norm()), 1e-300)


def merge_step(x, keys, sizes, r):
    """One step of bipartite soft matching.

    `x`, `keys` and `sizes` are lists by token, in order. Tokens of even place propose to the most similar token of
    odd place, by the cosine of their keys; the `r` best proposals win, at most half of the tokens.

    Returns what stays, its sizes, and for every token the place in the old order of the one it is in now.
    """
    n = len(x)
    proposals = []
    for a in range(0, n, 2):
        found = [(round(cosine(keys[a], keys[b]), 9), -b) for b in range(1, n, 2)]
        if found:
            best, b = max(found)
            proposals.append((-best, a, -b))
    into = list(range(n))
    for _, a, b in sorted(proposals)[: min(r, n // 2)]:
        into[a] = b
    merged, weights, stays = [], [], [i for i in range(n) if into[i] == i]
    for i in stays:
        members = [j for j in range(n) if into[j] == i]
        weight = sum(sizes[j] for j in members)
        merged.append(sum(x[j] * sizes[j] for j in members) / weight)
        weights.append(weight)
    return merged, weights, into, stays


def linear(x, layer):
    out = x @ layer.weight.double().T
    return out if layer.bias is None else out + layer.bias.double()


def norm(x, layer):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], layer.weight.double(), layer.bias.double(), layer.eps)


def attention(q, k, v, sizes, heads):
    """Heads one by one, with log(size) on the logits of every key."""
    width = q.shape[-1] // heads
    out = torch.zeros_like(q)
    for h in range(heads):
        own = slice(h * width, (h + 1) * width)
        logits = q[:, own] @ k[:, own].T / width**0.5
        for j, size in enumerate(sizes):
            logits[:, j] += torch.tensor(float(size), dtype=torch.float64).log()
        out[:, own] = logits.softmax(dim=-1) @ v[:, own]
    return out


def mean_heads(k, heads):
    return sum(k.chunk(heads, dim=-1)) / heads


class Walk:
    """One picture's tokens on their way through blocks, `prefix` of which are no patches."""

    def __init__(self, x, prefix):
        self.x, self.prefix = x.double(), prefix
        self.sizes = [1.0] * len(x)
        self.ids = list(range(len(x) - prefix))
        self.owner = list(self.ids)

    def merge(self, keys, r):
        patches = list(self.x[self.prefix :])
        merged, sizes, into, stays = merge_step(patches, list(keys[self.prefix :]), self.sizes[self.prefix :], r)
        became = {self.ids[i]: self.ids[into[i]] for i in range(len(into))}
        self.owner = [became.get(owner, owner) for owner in self.owner]
        self.x = torch.stack([*self.x[: self.prefix], *merged])
        self.sizes = [1.0] * self.prefix + sizes
        self.ids = [self.ids[i] for i in stays]

    def drop(self, keep):
        """Keep the patches of the largest norm."""
        norms = [float(one.norm()) for one in self.x[self.prefix :]]
        stays = sorted(sorted(range(len(norms)), key=lambda i: (-norms[i], i))[:keep])
        self.owner = [owner if owner in [self.ids[i] for i in stays] else None for owner in self.owner]
        self.ids = [self.ids[i] for i in stays]
        places = [*range(self.prefix), *(self.prefix + i for i in stays)]
        self.x = self.x[places]
        self.sizes = [self.sizes[i] for i in places]
