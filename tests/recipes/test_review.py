"""What is found in a recipe before it runs."""

import pickle
import time

import pytest

import tokensieve as ts
from tokensieve import Recipe
from tokensieve.errors import MissingEvidenceError
from tokensieve.recipes.review import find_errors
from tokensieve_adapters.llava import LlavaAdapter
from tokensieve_adapters.qwen2_vl import Qwen2VLAdapter
from tokensieve_adapters.timm_vit import TimmVitAdapter
from tokensieve_strategies import Norm

REGISTRY = ts.default_registry()


def recipe(formula, keep=64, at="decoder.0", **stage):
    lines = [f"  - at: {at}", f"    select: {formula}", f"    keep: {keep}"]
    lines += [f"    {key}: {value}" for key, value in stage.items()]
    return Recipe.loads("name: r\nstages:\n" + "\n".join(lines) + "\n", REGISTRY)


def found(*args, adapter=None, **kwargs):
    return [(f.level, f.message) for f in ts.review(recipe(*args, **kwargs), adapter)]


def test_evidence_that_no_model_has_at_the_site():
    ((level, message),) = found("fastv")
    assert level == "error"
    assert message == "'fastv' needs decoder_attention, which is not offered there; decoder.1 and deeper offer it"
    assert found("fastv", at="decoder.1") == []
    assert [level for level, _ in found("qcsp", at="encoder.3")] == ["error", "note"]
    assert any("per_group" in message for _, message in found("per_group(norm, by=tile)", at="encoder.1")) is False


def test_evidence_and_sites_of_a_model():
    llava, vit = LlavaAdapter(LlavaAdapter.tiny()), TimmVitAdapter(TimmVitAdapter.tiny())
    assert found("gsp & qcsp", keep=9, adapter=llava) == []
    assert found("fastv", keep=9, adapter=llava) == [
        (
            "error",
            "'fastv' needs decoder_attention, which is not offered there; llava offers it at decoder.1 ... decoder.3",
        )
    ]
    assert found("norm", keep=9, at="decoder.9", adapter=llava) == [
        ("error", "llava has no such site; it offers decoder.0 ... decoder.3, encoder.0 ... encoder.1")
    ]
    assert found("norm", keep=9, at="encoder.2", adapter=llava) == [
        ("error", "llava has no such site; it offers decoder.0 ... decoder.3, encoder.0 ... encoder.1")
    ]
    assert found("norm", at="encoder.3", adapter=vit) == []
    assert found("norm", at="encoder.3", rest="merge", adapter=vit) == []
    ((level, message),) = found("norm", at="encoder.3", per="frame", adapter=vit)
    assert level == "error"
    assert "leave out per: frame" in message


def test_what_needs_a_model_is_a_note():
    ((level, message),) = found("qcsp")
    assert level == "note"
    assert "query encoder" in message
    assert found("norm", keep="100%") == [("note", "keeps all tokens, so it changes nothing")]


def test_the_collapse_of_the_published_code():
    findings = found("gsp[64] & norm[64]", by="norm")
    assert findings == [
        (
            "warning",
            "the formula collapses: '(gsp[64] & norm[64])' always keeps what 'norm' alone keeps; gsp has no effect",
        )
    ]


@pytest.mark.parametrize(
    ("formula", "part"),
    [
        ("gsp & (gsp | norm)", "always keeps what 'gsp' alone keeps; norm has no effect"),
        ("gsp & gsp", "collapses"),
        ("gsp[8] & ~gsp[8]", "vacuous"),
        ("(gsp & norm) | (gsp & norm & random)", "'random' does no more than break ties in"),
        ("(gsp[32] & norm[32]) | (gsp[32] & norm[32] & random[32])", "'random' does no more than break ties"),
        ("gsp[64] >> norm", "always keeps what 'gsp' alone keeps"),
    ],
)
def test_operands_without_effect(formula, part):
    ((level, message),) = [f for f in found(formula) if f[0] != "note"]
    assert level == "warning"
    assert part in message


@pytest.mark.parametrize(
    "formula",
    [
        "gsp",
        "~gsp",
        "gsp[200]",
        "gsp & qcsp",
        "gsp | qcsp",
        "gsp - norm",
        "gsp ^ norm",
        "gsp & ~norm",
        "gsp & qcsp & norm",
        "(gsp | qcsp) & norm",
        "at_least(2, gsp, qcsp, norm)",
        "gsp[128] >> norm",
        "gsp[1/2] >> norm",
        "(gsp & norm)[128] >> random",
        "quota(gsp, norm, share=3/4)",
        "borda(gsp, norm)",
        "weighted(gsp, norm, weights=[2, 1])",
        "per_group(gsp, by=tile)",
        "per_group(gsp & norm, by=frame, share=proportional)",
        "gsp[100] & norm[100]",
        "gsp[4] | norm",
        "gsp & norm[300]",
        "~(gsp & norm)",
        "quota(gsp & norm, random)",
    ],
)
@pytest.mark.parametrize("keep", [8, 64, "1/9"])
def test_meaningful_formulas_raise_no_alarm(formula, keep):
    assert [f for f in found(formula, keep=keep) if f[0] != "note"] == []


def test_a_range_of_all_sites_is_reviewed_in_little_more_time_than_one():
    # Formulas are tried once; at every site anew it were minutes, and with names collected at every site still more.
    wide = recipe("gsp & norm", keep=4, at="decoder.0..9999")
    started = time.process_time()
    findings = ts.review(wide)
    assert time.process_time() - started < 10
    # All stages after the first leave all that it left.
    last = str(findings[-1])
    assert last == "note at decoder.1..9999: keeps 4 of the 4 that decoder.0 leaves, so it changes nothing"


def test_a_finding_is_told_once_for_a_range_of_sites():
    [finding] = ts.review(recipe("gsp & gsp", keep="1/2", at="decoder.1..3"))
    assert (finding.level, finding.site) == ("warning", "decoder.1..3")


def test_what_is_missing_at_some_sites_of_a_range_is_told_of_these():
    """The model has two blocks, so that evidence is missing at those and the third does not exist."""
    llava = LlavaAdapter(LlavaAdapter.tiny())
    findings = [f for f in ts.review(recipe("fastv & qcsp", at="encoder.0..2"), llava) if f.level == "error"]
    assert [(f.site, f.missing_evidence) for f in findings] == [
        ("encoder.0..1", True),
        ("encoder.0..1", True),
        ("encoder.2", False),
    ]
    assert find_errors(recipe("fastv & qcsp", at="encoder.0..2"), llava) == findings


def test_a_finding_has_file_and_line_of_its_stage(tmp_path):
    text = (
        "name: r\nstages:\n"
        "- {at: encoder.0..1, select: fastv, keep: 1/2}\n- {at: decoder.0..1, select: fastv, keep: 1/3}\n"
    )
    file = tmp_path / "r.yaml"
    file.write_text(text, encoding="utf-8")
    read = Recipe.load(file)
    assert [(f.site, f.place) for f in ts.review(read)] == [
        ("encoder.0..1", f"{file}:3"),
        ("decoder.0", f"{file}:4"),
    ]
    assert str(ts.review(read)[1]).endswith(f"offer it  ({file}:4)")
    # The places are no part of the value, and go where the stages go.
    plain = Recipe.loads(text)
    assert (read, hash(read), read.hash()) == (plain, hash(plain), plain.hash())
    for copied in (pickle.loads(pickle.dumps(read)), read.replace(keep=["1/3"] * 4), read.replace(name="s")):  # noqa: S301 - made here
        assert ts.review(copied)[0].place == f"{file}:3"
    other = read.replace(stages=[ts.Stage(at="decoder.0", select=Norm(), keep=1), *read.stages[3:]])
    assert (other.place(ts.Site("decoder", 0)), plain.place(ts.Site("decoder", 0))) == ("", "")
    with pytest.raises(MissingEvidenceError, match=rf"\({file}:3\)$"):
        ts.prune(LlavaAdapter.tiny(), file)


@pytest.mark.parametrize(
    ("keeps", "said"),
    [
        (
            ["99999"],
            [("warning", "keeps 99999 of the 36 visual tokens that a picture has there, so nothing is pruned")],
        ),
        (["37"], [("warning", "keep fewer, such as 4 or 1/9")]),
        (["36"], [("note", "keeps 36 of the 36 visual tokens that a picture has there, so it changes nothing")]),
        (["35"], []),
        (["1/9", "5"], [("warning", "keeps 5 of the 4 visual tokens")]),
        (["16", "20"], [("warning", "that decoder.0 leaves")]),
    ],
)
def test_a_budget_beyond_the_tokens_of_a_picture(keeps, said):
    llava = LlavaAdapter(LlavaAdapter.tiny())
    stages = [ts.Stage(at=f"decoder.{k}", select=Norm(), keep=keep) for k, keep in enumerate(keeps)]
    findings = ts.review(Recipe(stages=stages), llava)
    assert [f.level for f in findings] == [level for level, _ in said]
    for finding, (_, words) in zip(findings, said, strict=True):
        assert words in finding.message


def test_where_the_tokens_of_a_picture_are_not_known_nothing_is_said_of_them():
    llava, qwen = LlavaAdapter(LlavaAdapter.tiny()), Qwen2VLAdapter(Qwen2VLAdapter.tiny())
    assert found("norm", keep=9999, adapter=qwen) == []
    assert found("norm", keep=9999, per="sample", adapter=llava) == []
    assert [level for level, _ in found("norm", keep=9999, at="encoder.0", adapter=llava)] == ["warning"]


@pytest.mark.parametrize(
    ("keeps", "said"),
    [
        ([9, 5, 7, 5, 3, 8], {2: (7, 5, 1), 3: (5, 5, 1), 5: (8, 5, 1)}),
        ([4, 4], {1: (4, 4, 0)}),
        ([3, "1/2", 5], {2: (5, 3, 0)}),
        ([5, 4, 3], {}),
    ],
)
def test_the_first_stage_that_leaves_too_few_is_named(keeps, said):
    stages = tuple(ts.Stage(at=f"decoder.{i}", select=Norm(), keep=keep) for i, keep in enumerate(keeps))
    findings = ts.review(Recipe(stages=stages))
    assert [str(f) for f in findings] == [
        f"{'note' if mine == theirs else 'warning'} at decoder.{i}: keeps {mine} of the {theirs} that "
        f"decoder.{first} leaves, so it changes nothing"
        + ("" if mine == theirs else "; a later stage keeps less than an earlier one")
        for i, (mine, theirs, first) in said.items()
    ]


def test_a_stream_is_another_method_than_its_operand():
    assert found("stream(divprune, frames=8)") == []
    assert found("stream(divprune, frames=8, memory=64)", keep="1/9") == []


def test_a_budget_beyond_the_memory_of_a_stream():
    ((level, message),) = found("stream(divprune, memory=32)", keep=64)
    assert level == "warning"
    assert (
        message
        == "keeps 64, and the memory of stream holds 32: the rest had left it; keep no more, or leave memory out"
    )
    assert found("stream(divprune, memory=64)", keep=64) == []
