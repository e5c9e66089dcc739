"""What is found in a recipe before it runs."""

import time

import pytest

import tokensieve as ts
from tokensieve import Recipe
from tokensieve_adapters.llava import LlavaAdapter
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
    assert message == "'fastv' needs decoder_attention, which decoder.0 does not offer; decoder.1 and deeper do"
    assert found("fastv", at="decoder.1") == []
    assert [level for level, _ in found("qcsp", at="encoder.3")] == ["error", "note"]
    assert any("per_group" in message for _, message in found("per_group(norm, by=tile)", at="encoder.1")) is False


def test_evidence_and_sites_of_a_model():
    llava, vit = LlavaAdapter(LlavaAdapter.tiny()), TimmVitAdapter(TimmVitAdapter.tiny())
    assert found("gsp & qcsp", adapter=llava) == []
    assert found("fastv", adapter=llava) == [
        (
            "error",
            "'fastv' needs decoder_attention, which decoder.0 does not offer; "
            "llava offers it at decoder.1 ... decoder.3",
        )
    ]
    assert found("norm", at="decoder.9", adapter=llava) == [
        ("error", "llava has no decoder.9; it offers decoder.0 ... decoder.3, encoder.0 ... encoder.1")
    ]
    assert found("norm", at="encoder.2", adapter=llava) == [
        ("error", "llava has no encoder.2; it offers decoder.0 ... decoder.3, encoder.0 ... encoder.1")
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
    assert len([f for f in findings if "changes nothing" in f.message]) == 9999
    last = str(findings[-1])
    assert last == "note at decoder.9999: keeps 4 of the 4 that decoder.0 leaves, so it changes nothing"


def test_a_finding_of_a_formula_is_told_of_every_site():
    findings = ts.review(recipe("gsp & gsp", keep="1/2", at="decoder.1..3"))
    assert [(f.level, f.site) for f in findings] == [("warning", f"decoder.{k}") for k in (1, 2, 3)]


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
