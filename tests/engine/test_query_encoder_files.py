"""Query encoders from files: local, as data, never with code of the checkpoint, and refused at once if missing."""

import json
import socket
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import tokensieve as ts
from tokensieve.cli.checkpoints import query_encoder_folder
from tokensieve.errors import RefusedError
from tokensieve.models.pretrained import local_checkpoint

from .models import ONE, prompts, shared
from .test_query import letters, read, two_towers

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import {base}
class Own({base}):
    pass
"""


@pytest.fixture
def model():
    return shared("sdpa")


@pytest.fixture
def folder(model, tmp_path):
    """A query encoder and its tokenizer."""
    made = tmp_path / "clip"
    two_towers(model).save_pretrained(made)
    letters().save_pretrained(made)
    return made


@pytest.fixture
def network(monkeypatch):
    """The hosts that were looked up; there are none."""
    asked = []

    def refuse(host, *args, **kwargs):
        asked.append(host)
        raise OSError("there is no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return asked


@pytest.mark.parametrize(
    "wrong", ["clpi", "models/clpi", "./clpi", "/nowhere/clpi", "~/clpi", "a/b/c", "", "öpenai/clip", "own--er/na..me"]
)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_mistyped_folder_is_refused_without_the_network(model, network, wrong, kind):
    with pytest.raises(RefusedError, match=r"query_encoder is .*(no such folder|no config\.json)"):
        read(model, prompts(model, ONE), query_encoder=kind(wrong), query=["acat"])
    assert network == []


def test_an_id_that_is_not_in_the_cache_says_how_to_get_it(model, network):
    with pytest.raises(RefusedError, match=r"nothing is downloaded: .* hf download openai/clip-none$"):
        read(model, prompts(model, ONE), query_encoder="openai/clip-none", query=["acat"])
    assert network == []


def test_an_id_in_the_cache_is_loaded(model, folder, tmp_path, network, monkeypatch):
    snapshot = tmp_path / "hub" / "models--owner--clip" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    ledger, _ = read(model, prompts(model, ONE), query_encoder="owner/clip", query=["acat"])
    assert any("sign of owner/clip is not known" in note for note in ledger.notes)
    assert network == []


def test_a_home_folder_is_found(model, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    read(model, prompts(model, ONE), query_encoder="~/clip", query=["acat"])


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("known", [True, False], ids=["a known model type", "an unknown model type"])
def test_code_of_a_checkpoint_is_never_run(model, folder, tmp_path, network, monkeypatch, part, known):
    asked, marker = [], tmp_path / "ran"
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "y")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    base = "CLIPModel" if part == "config.json" else "PreTrainedTokenizerFast"
    (folder / "own.py").write_text(CODE.format(marker=str(marker), base=base))
    content = json.loads((folder / part).read_text())
    own = {"AutoConfig": "own.Own", "AutoModel": "own.Own"} if part == "config.json" else {}
    content["auto_map"] = own or {"AutoTokenizer": ["own.Own", "own.Own"]}
    if not known:
        content |= {"model_type": "own"} if own else {"tokenizer_class": "Own"}
    (folder / part).write_text(json.dumps(content))
    refused = pytest.raises(RefusedError, match="cannot be loaded") if own and not known else nullcontext()
    with refused:
        read(model, prompts(model, ONE), query_encoder=folder, query=["acat"])
    assert not marker.exists()
    assert asked == network == []


def test_missing_weights_are_refused(model, folder):
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({name: value for name, value in weights.items() if "text_projection" not in name}, file, {"format": "pt"})
    with pytest.raises(RefusedError, match=r"lacks 1 of the model's weights \(text_projection\.weight\)"):
        read(model, prompts(model, ONE), query_encoder=folder, query=["acat"])


def test_a_folder_without_a_tokenizer(model, tmp_path, network):
    two_towers(model).save_pretrained(tmp_path)
    with pytest.raises(RefusedError, match="there is none of the files merges"):
        read(model, prompts(model, ONE), query_encoder=tmp_path, query=["acat"])
    assert network == []


def test_a_model_whose_folder_is_gone(model, network):
    partner = two_towers(model)
    partner.config._name_or_path = "gone/clip"
    with pytest.raises(RefusedError, match=r"\(model, tokenizer\) is needed .* 'gone/clip'"):
        read(model, prompts(model, ONE), query_encoder=partner, query=["acat"])
    assert network == []


def test_the_command_line_refuses_it_before_the_model_is_loaded(folder):
    registry = ts.default_registry()
    assert query_encoder_folder(None, folder, registry) == folder
    with pytest.raises(RefusedError, match="--query-encoder is 'clpi', and there is no such folder"):
        query_encoder_folder(None, Path("clpi"), registry)


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(RefusedError, match=r"it has no config\.json"):
        local_checkpoint(tmp_path, "query_encoder")
