"""What a pruned LLaVA computes, by two routes of their own.

Neither knows a cache, padding, a batch or a hook: one row, no padding, everything anew at every step.

`Plain` builds the pruned sequence by hand and gives it to the model's own language model, with a mask
and positions made here. `Written` is the language model written out from its raw weights in float64; in
it, tokens can leave at every layer.
"""

import math
from dataclasses import dataclass, field

import torch


def features(model, pixels):
    """Projected features `[images * patches, d]`: the tower's selected layer, without its class token."""
    if not len(pixels):
        return torch.zeros(0, model.config.text_config.hidden_size, dtype=model.dtype)
    base, config = model.model, model.config
    hidden = base.vision_tower(pixels, output_hidden_states=True).hidden_states[config.vision_feature_layer]
    if config.vision_feature_select_strategy == "default":
        hidden = hidden[:, 1:]
    return base.multi_modal_projector(hidden).flatten(0, 1)


def embedded(model, row):
    """Embeddings `[n, d]` of a row's prompt, and the id of the visual token at each place, or None."""
    image = model.config.image_token_id
    table = model.model.language_model.embed_tokens.weight
    seen = iter(features(model, row.pixels))
    vectors, ids, count = [], [], 0
    for word in row.words:
        if word == image:
            vectors.append(next(seen))
            ids.append(count)
            count += 1
        else:
            vectors.append(table[word])
            ids.append(None)
    return torch.stack(vectors), ids


def best(scores, k, size):
    """The ids of the k best of every image of `size` tokens, by `scores` a id; the lower id wins ties."""
    kept = set()
    for image in {i // size for i in scores}:
        own = sorted((i for i in scores if i // size == image), key=lambda i: (-scores[i], i))
        kept |= set(own[:k])
    return kept


def folded(vectors, kept, size, mass=None):
    """Fold every token that is not kept into its most similar kept one of its image: vectors, and what they weigh.

    Args:
        vectors: `[d]` by id.
        kept: ids.
        size: tokens an image.
        mass: how many tokens each one stands for already; one by default.
    """
    mass = mass or dict.fromkeys(vectors, 1)

    def cosine(a, b):
        return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))

    members = {i: [i] for i in kept}
    for i in sorted(set(vectors) - set(kept)):
        near = [j for j in sorted(kept) if j // size == i // size]
        members[max(near, key=lambda j: (cosine(vectors[i], vectors[j]), -j))].append(i)
    total = {i: sum(mass[m] for m in own) for i, own in members.items()}
    return {i: sum(mass[m] * vectors[m] for m in own) / total[i] for i, own in members.items()}, total


class Plain:
    """The model's own layers on a sequence pruned by hand before them."""

    def __init__(self, model, positions="original"):
        self.model = model
        self.positions = positions

    def sequence(self, row, kept, vectors=None):
        """Embeddings `[m, d]` and positions `[m]` of what stays, and the next position."""
        x, ids = embedded(self.model, row)
        stays = [place for place, i in enumerate(ids) if i is None or i in kept]
        pruned = torch.stack([vectors[ids[p]] if vectors and ids[p] is not None else x[p] for p in stays])
        if self.positions == "compact":
            return pruned, list(range(len(stays))), len(stays)
        return pruned, stays, len(ids)

    def hidden(self, x, positions):
        n = len(x)
        seen = torch.ones(n, n, dtype=torch.bool).tril()
        if self.model.config.text_config._attn_implementation == "eager":
            seen = torch.zeros(n, n, dtype=x.dtype).masked_fill(~seen, torch.finfo(x.dtype).min)
        return self.model.model.language_model(
            inputs_embeds=x[None],
            attention_mask=seen[None, None],
            position_ids=torch.tensor([positions]),
            use_cache=False,
        ).last_hidden_state[0]

    @torch.no_grad()
    def logits(self, row, kept, new=(), vectors=None):
        """Logits `[m + new, words]` of the pruned prompt followed by `new` words."""
        x, positions, following = self.sequence(row, kept, vectors)
        if len(new):
            x = torch.cat([x, self.model.model.language_model.embed_tokens.weight[list(new)]])
            positions = positions + [following + i for i in range(len(new))]
        return self.model.lm_head(self.hidden(x, positions))

    def greedy(self, row, kept, steps, vectors=None):
        """The next tokens, and the logits `[steps, words]` they are taken from."""
        new, seen = [], []
        for _ in range(steps):
            seen.append(self.logits(row, kept, new, vectors)[-1])
            new.append(int(seen[-1].argmax()))
        return new, torch.stack(seen)


@dataclass
class Cut:
    """What a stage does: keeps the best k of every image, or a given set, or folds the others into it.

    Attributes:
        k: how many stay of each image.
        judge: gives scores by id from the evidence: a dict of `features` and, past layer 0, `attention`, `content` and
            `keys` by id, and `words`, a dict like the fields of `PromptText`.
        kept: the set, where it is given.
        merge: whether the others are folded into their most similar kept token.
    """

    k: int = 0
    judge: object = None
    kept: set | None = None
    merge: bool = False


@dataclass
class Trace:
    """What happened in a written forward.

    Attributes:
        logits: of the last place, `[words]`.
        kept: by layer at which tokens left, the ids that stayed.
        lengths: by layer, how many places it saw.
        attention: by layer, `[heads, m, m]`.
        every: by place of the prompt, logits `[words]`; a token that left keeps its vector as it left.
    """

    logits: torch.Tensor = None
    kept: dict = field(default_factory=dict)
    lengths: list = field(default_factory=list)
    attention: list = field(default_factory=list)
    every: torch.Tensor = None


class Written:
    """A Llama written out from raw weights, in float64, whose visual tokens can leave at any layer."""

    def __init__(self, model, positions="original"):
        text = model.config.text_config
        self.model = model
        self.positions = positions
        self.heads, self.kv_heads = text.num_attention_heads, text.num_key_value_heads
        self.width = text.hidden_size // self.heads
        self.eps = text.rms_norm_eps
        self.theta = text.rope_parameters["rope_theta"]
        self.depth = text.num_hidden_layers
        self.weights = {name: w.detach().double() for name, w in model.model.language_model.named_parameters()}
        self.head = model.lm_head.weight.detach().double()
        vision = model.config.vision_config
        self.size = (vision.image_size // vision.patch_size) ** 2

    def norm(self, x, name):
        return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + self.eps) * self.weights[name]

    def rotated(self, x, positions):
        """Turn each pair (i, i + half) of `x` `[n, width]` by position * theta^(-2i / width)."""
        half = self.width // 2
        angles = [[p * self.theta ** (-2 * i / self.width) for i in range(half)] for p in positions]
        turn = torch.tensor(angles, dtype=torch.float64)
        a, b = x[:, :half], x[:, half:]
        return torch.cat([a * turn.cos() - b * turn.sin(), b * turn.cos() + a * turn.sin()], dim=1)

    def ones(self, positions):
        """The scores `[n, n]` of vectors of ones that are turned to their positions."""
        turned = self.rotated(torch.ones(len(positions), self.width, dtype=torch.float64), positions)
        return turned @ turned.T / math.sqrt(self.width)

    def layer(self, number, x, positions):
        """Give the layer's output `[n, d]`, its attention `[heads, n, n]`, its keys `[n, kv_heads * width]`, and what
        attention would be without positions."""
        w = {name.split(".", 2)[2]: v for name, v in self.weights.items() if name.startswith(f"layers.{number}.")}
        n, own = len(x), f"layers.{number}."
        y = self.norm(x, own + "input_layernorm.weight")
        q, k, v = (y @ w[f"self_attn.{part}_proj.weight"].T for part in "qkv")
        queries = [self.rotated(q[:, h * self.width :][:, : self.width], positions) for h in range(self.heads)]
        keys = [self.rotated(k[:, h * self.width :][:, : self.width], positions) for h in range(self.kv_heads)]
        values = [v[:, h * self.width :][:, : self.width] for h in range(self.kv_heads)]
        future = torch.ones(n, n, dtype=torch.bool).triu(1)
        rows, mixed, content = [], [], []
        for h in range(self.heads):
            shared = h // (self.heads // self.kv_heads)
            plain = q[:, h * self.width :][:, : self.width] @ k[:, shared * self.width :][:, : self.width].T
            content.append((plain / math.sqrt(self.width)).masked_fill(future, -torch.inf).softmax(dim=-1))
            scores = (queries[h] @ keys[shared].T / math.sqrt(self.width)).masked_fill(future, -torch.inf)
            rows.append(scores.softmax(dim=-1))
            mixed.append(rows[-1] @ values[shared])
        x = x + torch.cat(mixed, dim=1) @ w["self_attn.o_proj.weight"].T
        y = self.norm(x, own + "post_attention_layernorm.weight")
        gate, up = y @ w["mlp.gate_proj.weight"].T, y @ w["mlp.up_proj.weight"].T
        x = x + (gate / (1 + torch.exp(-gate)) * up) @ w["mlp.down_proj.weight"].T
        return x, torch.stack(rows), torch.cat(keys, dim=1), torch.stack(content)

    @torch.no_grad()
    def forward(self, row, cuts, new=()):
        """Run the prompt and the words after it; `cuts` by layer."""
        x, ids = embedded(self.model, row)
        prompt = len(ids)
        x = torch.cat([x.double(), self.weights["embed_tokens.weight"][list(new)]])
        ids = ids + [None] * len(new)
        places = list(range(len(ids)))
        positions = list(places)
        left = x.clone()
        trace = Trace()
        attention = keys = content = mass = entered = None
        for number in range(self.depth):
            if number in cuts:
                cut = cuts[number]
                by_id = {i: at for at, i in enumerate(ids) if i is not None}
                vectors = {i: x[at] for i, at in by_id.items()}
                evidence = {"features": vectors}
                if attention is not None:
                    last = places.index(prompt - 1)
                    evidence["attention"] = {i: attention[:, last, at] for i, at in by_id.items()}
                    evidence["keys"] = {i: keys[at] for i, at in by_id.items()}
                    evidence["content"] = {i: content[:, last, at] for i, at in by_id.items()}
                    words = [at for at, i in enumerate(ids) if i is None and places[at] < prompt]
                    evidence["words"] = {
                        "attention": {i: attention[:, words, at].mean(dim=0) for i, at in by_id.items()},
                        "keys": keys[words],
                        "features": x[words],
                        "embeddings": torch.stack([entered[places[at]] for at in words]),
                        "patch": {i: entered[places[at]] for i, at in by_id.items()},
                        "after": [at > max(by_id.values(), default=-1) for at in words],
                        "heads": {i: attention[:, words, at].T for i, at in by_id.items()},
                        "bias": {i: self.ones(positions)[words, at] for i, at in by_id.items()},
                    }
                kept = set(by_id) & cut.kept if cut.kept is not None else best(cut.judge(evidence), cut.k, self.size)
                trace.kept[number] = sorted(kept)
                x = x.clone()
                if cut.merge:
                    together, mass = folded(vectors, kept, self.size, mass)
                    for i, vector in together.items():
                        x[by_id[i]] = vector
                for at, place in enumerate(places):
                    left[place] = x[at]
                stays = [at for at, i in enumerate(ids) if i is None or i in kept]
                x = x[stays]
                ids, places, positions = ([all_[at] for at in stays] for all_ in (ids, places, positions))
                if self.positions == "compact":
                    positions = list(range(len(positions)))
            trace.lengths.append(len(x))
            if number == 0:
                entered = dict(zip(places, x, strict=True))
            x, attention, keys, content = self.layer(number, x, positions)
            trace.attention.append(attention)
        for at, place in enumerate(places):
            left[place] = x[at]
        trace.every = self.norm(left, "norm.weight") @ self.head.T
        trace.logits = trace.every[-1]
        return trace

    def greedy(self, row, cuts, steps):
        """The next tokens, the logits `[steps, words]` they are taken from, and the trace of the prompt."""
        new, seen, first = [], [], None
        for _ in range(steps):
            trace = self.forward(row, cuts, new)
            first = first or trace
            # What the prompt decided holds for all that follows.
            cuts = {n: Cut(kept=set(first.kept[n]), merge=cut.merge) for n, cut in cuts.items()}
            seen.append(trace.logits)
            new.append(int(trace.logits.argmax()))
        return new, torch.stack(seen), first


# What strategies judge by, written again for one row.


def norms(evidence):
    return {i: float(v.double().norm()) for i, v in evidence["features"].items()}


def attended(evidence):
    return {i: float(heads.mean()) for i, heads in evidence["attention"].items()}


@torch.no_grad()
def judged(model, row, judge, k, size):
    """The ids that stay of a row where they are judged before the language model."""
    vectors = dict(enumerate(features(model, row.pixels)))
    return best(judge({"features": vectors}), k, size)


@torch.no_grad()
def merged(model, row, kept, size):
    """The vectors of the kept tokens with the others folded in."""
    return folded(dict(enumerate(features(model, row.pixels))), kept, size)[0]
