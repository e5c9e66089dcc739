"""What a model computes whose vision tower never saw some patches, written out by hand.

`encoded` is the tower in float64 from its raw weights, frame by frame and head by head, on the kept patches alone, each
with the row and column that it has in its picture. `logits` lays the shorter prompt out by hand and gives it to the
model.
"""

import inspect
import math

import torch
from torch.nn.functional import gelu, interpolate, layer_norm, linear, silu

import tokensieve as ts
from tokensieve.testing.adapters.kit import Kit
from tokensieve.testing.footprint import footprint
from tokensieve_adapters import _tiny


def normed(module, x):
    if not hasattr(module, "bias"):
        return x * (x.square().mean(dim=-1, keepdim=True) + module.variance_epsilon).rsqrt() * module.weight.double()
    return layer_norm(x, x.shape[-1:], module.weight.double(), module.bias.double(), module.eps)


def mapped(module, x):
    return linear(x, module.weight.double(), None if module.bias is None else module.bias.double())


def first(module, *names):
    return next(getattr(module, name) for name in names if hasattr(module, name))


def turned(x, places, theta):
    """Rotate pairs of `x` `[patches, width]`: the first half of the pairs by rows, the second by columns."""
    half = x.shape[1] // 2
    quarter = half // 2
    out = x.clone()
    for number, (row, column) in enumerate(places):
        for pair in range(half):
            speed = theta ** (-2 * (pair % quarter) / half)
            angle = (row if pair < quarter else column) * speed
            a, b = x[number, pair], x[number, pair + half]
            out[number, pair] = a * math.cos(angle) - b * math.sin(angle)
            out[number, pair + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def attended(block, x, places, heads, theta, window=None):
    """Attention of all to all; or to those whose place is in the same window of `window` x `window` patches."""
    entering = normed(block.norm1, x)
    if hasattr(block.attn, "qkv"):
        q, k, v = mapped(block.attn.qkv, entering).chunk(3, dim=1)
    else:
        q, k, v = (mapped(getattr(block.attn, name), entering) for name in "qkv")
    width, mixed = q.shape[1] // heads, []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        scores = turned(q[:, own], places, theta) @ turned(k[:, own], places, theta).T / math.sqrt(width)
        if window is not None:
            here = [(row // window, column // window) for row, column in places]
            scores = scores.masked_fill(torch.tensor([[a != b for b in here] for a in here]), -torch.inf)
        mixed.append(scores.softmax(dim=-1) @ v[:, own])
    return x + mapped(block.attn.proj, torch.cat(mixed, dim=1))


def fed(mlp, name, x):
    if hasattr(mlp, "gate_proj"):
        return mapped(mlp.down_proj, silu(mapped(mlp.gate_proj, x)) * mapped(mlp.up_proj, x))
    up, down = first(mlp, "fc1", "linear_fc1"), first(mlp, "fc2", "linear_fc2")
    return mapped(down, activated(name, mapped(up, x)))


def activated(name, x):
    return x * torch.sigmoid(1.702 * x) if name == "quick_gelu" else gelu(x, approximate="tanh")


def joined(merger, x, size):
    """Make one vector of `size` consecutive patches; whether they are normalised apart depends on the merger."""
    norm = first(merger, "ln_q", "norm")
    squares = x.reshape(len(x) // size, -1)
    whole = norm.weight.shape[0] == squares.shape[1]
    squares = normed(norm, squares) if whole else normed(norm, x).reshape(len(squares), -1)
    down, up = (merger.mlp[0], merger.mlp[2]) if hasattr(merger, "mlp") else (merger.linear_fc1, merger.linear_fc2)
    return mapped(up, gelu(mapped(down, squares)))


def tower_of(model):
    return model.model.visual if hasattr(model.model, "visual") else model.visual


def placed(model, ids, kinds, inputs):
    """The positions of a whole prompt, `[4, 1, tokens]`: text, time, row, column."""
    known = {
        "mm_token_type_ids": kinds,
        "image_grid_thw": inputs.get("image_grid_thw"),
        "video_grid_thw": inputs.get("video_grid_thw"),
        "second_per_grids": inputs.get("video_second_per_grid"),
        "attention_mask": torch.ones_like(ids),
    }
    compute = model.model.get_rope_index if hasattr(model.model, "get_rope_index") else model.get_rope_index
    asked = inspect.signature(compute).parameters
    axes = compute(ids, **{name: value for name, value in known.items() if name in asked})[0]
    return torch.cat([torch.arange(ids.shape[1]).expand(1, 1, -1), axes])


@torch.no_grad()
def encoded(model, pixels, grid, kept):
    """Features `[kept, d]` of the kept units of a picture, and those of each added layer.

    Args:
        pixels: `[patches, c]`, of the picture.
        grid: its frames, rows and columns of patches.
        kept: ascending.
    """
    tower, vision = tower_of(model), model.config.vision_config
    frames, rows, columns = grid
    side = vision.spatial_merge_size
    theta = vision.rope_parameters["rope_theta"]
    weight = tower.patch_embed.proj.weight.double().flatten(1)
    bias = tower.patch_embed.proj.bias
    learned = None
    if hasattr(tower, "pos_embed"):
        table = tower.pos_embed.weight.double()
        edge = math.isqrt(len(table))
        square = table.T.reshape(1, -1, edge, edge)
        learned = interpolate(square, (rows, columns), mode="bilinear", align_corners=True)[0]
    deep = list(getattr(tower, "deepstack_visual_indexes", ()))
    found, added = [], [[] for _ in deep]
    per_frame = (rows // side) * (columns // side)
    for frame in range(frames):
        x, places = [], []
        for unit in kept:
            if unit // per_frame != frame:
                continue
            row, column = divmod(unit % per_frame, columns // side)
            for patch in range(side**2):
                place = row * side + patch // side, column * side + patch % side
                vector = weight @ pixels[unit * side**2 + patch].double()
                vector = vector if bias is None else vector + bias.double()
                x.append(vector if learned is None else vector + learned[:, place[0], place[1]])
                places.append(place)
        if not x:
            continue
        x = torch.stack(x)
        for number, block in enumerate(tower.blocks):
            windowed = number not in getattr(vision, "fullatt_block_indexes", range(len(tower.blocks)))
            window = vision.window_size // vision.patch_size if windowed else None
            x = attended(block, x, places, vision.num_heads, theta, window)
            x = x + fed(block.mlp, vision.hidden_act, normed(block.norm2, x))
            if number in deep:
                at = deep.index(number)
                added[at].append(joined(tower.deepstack_merger_list[at], x, side**2))
        found.append(joined(tower.merger, x, side**2))
    return torch.cat(found), [torch.cat(layer) for layer in added]


def pictures_of(prompts, row):
    """For every picture of a prompt, in the order of its placeholders by modality: modality, pixels, grid."""
    inputs = prompts.pictures([row])
    made = []
    for modality in prompts.decoder.modalities:
        grids = inputs.get(f"{modality.name}_grid_thw")
        begin = 0
        for grid in [] if grids is None else grids.tolist():
            size = math.prod(grid)
            made.append((modality, inputs[modality.pixel_argument][begin : begin + size], grid))
            begin += size
    return made


def units_of(prompts, row):
    """The ids of the tokens of each picture, as `pictures_of` lists them: a prompt's ids run through all of them."""
    side = prompts.model.config.vision_config.spatial_merge_size
    visual = [row.words[place] for place in prompts.visual(row)]
    left = {
        modality.name: [i for i, word in enumerate(visual) if word == modality.placeholder_id]
        for modality in prompts.decoder.modalities
    }
    found = []
    for modality, _, grid in pictures_of(prompts, row):
        size = math.prod(grid) // side**2
        found.append(left[modality.name][:size])
        left[modality.name] = left[modality.name][size:]
    return found


@torch.no_grad()
def logits(prompts, row, encoded_ids, left=None, positions="original", new=()):
    """Logits `[vocabulary]` after a prompt, and the new words behind it.

    Args:
        encoded_ids: the tokens that the tower encodes.
        left: of them, those that the language model gets; all by default.
    """
    model, decoder = prompts.model, prompts.decoder
    left = encoded_ids if left is None else left
    ids = torch.tensor([[*row.words, *new]])
    kinds = (ids == _tiny.IMAGE).int() + 2 * (ids == _tiny.VIDEO).int()
    kinds[:, len(row.words) :] = 0
    inputs = prompts.pictures([row])
    axes = placed(model, ids, kinds, inputs)
    gone = {place for number, place in enumerate(prompts.visual(row)) if number not in set(left)}
    stays = [place for place in range(ids.shape[1]) if place not in gone]
    outputs = {}
    for (modality, pixels, grid), own in zip(pictures_of(prompts, row), units_of(prompts, row), strict=True):
        kept = [unit for unit, number in enumerate(own) if number in set(encoded_ids)]
        features, layers = encoded(model, pixels, grid, kept) if kept else (None, None)
        wanted = [turn for turn, unit in enumerate(kept) if own[unit] in set(left)]
        if not wanted:
            continue
        part = outputs.setdefault(modality.name, ([], [[] for _ in layers]))
        part[0].append(features[wanted].to(model.dtype))
        for layer, more in zip(part[1], layers, strict=True):
            layer.append(more[wanted].to(model.dtype))
    given = {}
    for name, (features, layers) in outputs.items():
        [modality] = [one for one in decoder.modalities if one.name == name]
        plain = decoder.encode_visual_inputs(
            {
                key: value
                for key, value in inputs.items()
                if key.startswith((modality.pixel_argument, f"{name}_grid"))
                and (name == "video" or "videos" not in key)
            }
        )[name]
        plain.pooler_output = tuple(features)
        if layers:
            plain.deepstack_features = [tuple(layer) for layer in layers]
        given[name] = plain
    chosen = axes[..., stays]
    if positions == "compact" and gone:
        chosen = axes[..., :1] + torch.arange(len(stays))
    return model(
        input_ids=ids[:, stays],
        attention_mask=torch.ones(1, len(stays), dtype=torch.int64),
        **({"mm_token_type_ids": kinds[:, stays]} if "mm_token_type_ids" in prompts.batch([row]) else {}),
        position_ids=chosen,
        mm_encoder_outputs=given,
        use_cache=False,
    ).logits[0, -1]


def greedy(prompts, row, steps, *kept, **settings):
    """The next words, and the logits `[steps, vocabulary]` that they are taken from."""
    new, seen = [], []
    silent = torch.tensor(prompts.reserved_token_ids)
    for _ in range(steps):
        seen.append(logits(prompts, row, *kept, new=new, **settings))
        new.append(int(seen[-1].index_fill(0, silent, -torch.inf).argmax()))
    return new, torch.stack(seen)


# The models, and runs of them


_kits = {}


def kit_of(name):
    """A family's kit, the same for all tests."""
    if name not in _kits:
        adapter = ts.default_registry().adapters[name]
        model = adapter.tiny()
        _kits[name] = Kit(model, adapter(model))
    return _kits[name]


def recipe(keep=3, select="random", more="", positions="original", per="image"):
    return ts.Recipe.loads(
        f"positions: {positions}\nstages:\n  - {{at: pixel.0, select: {select}, keep: {keep}, per: {per}}}\n{more}"
    )


def close(a, b, what=None):
    torch.testing.assert_close(a, b, atol=5e-4, rtol=1e-3, msg=what and (lambda said: f"{what}: {said}"))


@torch.no_grad()
def run(kit, made, rows, **options):
    """A direct call, batched: the last logits of each prompt, and the ids that each kept at every site."""
    with ts.prune(kit.model, made, **options) as ledger:
        out = kit.model(**kit.prompts.batch(rows)).logits[:, -1]
    sites = [str(stage.at) for stage in made.stages]
    return out, [[ids.tolist() for ids in ledger.kept(site)] for site in sites], ledger


def window_of(kit, row, token):
    """Where the tower holds a token: by picture, frame and window, and then by turn."""
    vision = kit.model.config.vision_config
    side = getattr(vision, "window_size", 10**6) // vision.patch_size // 2
    pictures = zip(pictures_of(kit.prompts, row), units_of(kit.prompts, row), strict=True)
    for number, ((_, _, (_, rows, columns)), own) in enumerate(pictures):
        if token in own:
            frame, at = divmod(own.index(token), rows * columns // 4)
            line, column = divmod(at, columns // 2)
            return number, frame, line // side, column // side, token
    raise AssertionError(token)


def unharmed(name):
    """Yield the kit of a family, whose model must be as before afterwards."""
    made = kit_of(name)
    before = footprint(made.model)
    yield made
    assert footprint(made.model) == before
