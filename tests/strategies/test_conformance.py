"""Every registered strategy keeps the laws of the conformance kit, whoever brought it."""

import itertools
import subprocess
import sys
import textwrap
from collections import Counter

import pytest
from effort import NIGHTLY

import tokensieve as ts
from tokensieve.testing import StrategyConformance, parametrize_strategy_checks
from tokensieve.testing.samples import pool, sample
from tokensieve.testing.strategies import counts, evidence, invariance, mergers
from tokensieve_strategies import Norm

# It judges by a file that a run wrote, and no sample of the kit's is in one.
APART = {"replay"}
REGISTERED = {name: cls for name, cls in sorted(ts.default_registry().strategies.items()) if name not in APART}


THIRDS = 3


def cases():
    """Every law of every strategy each day, in turn on one example and a third of the kit's inputs; all at night.

    Every third input has all sizes of rows; the thirds differ in kinds of vectors.
    """
    for number, cls in enumerate(REGISTERED.values()):
        pairs = parametrize_strategy_checks(cls)
        laws = list(dict.fromkeys(check.name for _, check in pairs))
        seen = Counter()
        for instance, check in pairs:
            turn = (seen[check.name] - laws.index(check.name)) % len(cls.examples)
            seen[check.name] += 1
            marks = [pytest.mark.nightly] if turn else []
            yield pytest.param(instance, check, (number + laws.index(check.name)) % THIRDS, marks=marks)


@pytest.mark.parametrize(("strategy", "check", "third"), list(cases()), ids=repr)
def test_a_registered_strategy_keeps_the_laws(strategy, check, third, monkeypatch):
    if not NIGHTLY:
        for module in (counts, evidence, invariance, mergers):
            monkeypatch.setattr(module, "pool", lambda: itertools.islice(pool(), third, None, THIRDS))
    reason = check(strategy)
    if reason is not None:
        pytest.xfail(reason)


class TestNorm(StrategyConformance):
    """As a plugin's author does it."""

    strategy = Norm


def test_samples_have_every_kind_of_evidence():
    assert set(sample([3, 2]).evidence) == set(ts.Evidence)


def test_the_kit_needs_no_hypothesis_and_no_pytest():
    program = """
        import sys
        from tokensieve.testing import parametrize_strategy_checks
        from tokensieve_strategies import Norm

        for instance, check in parametrize_strategy_checks(Norm()):
            check(instance)
        print(sorted({"hypothesis", "pytest", "transformers"} & set(sys.modules)))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


def test_what_pytest_says_of_a_plugin(tmp_path):
    """A law that is kept passes, one that is broken as declared is expected to fail, and any other fails."""
    (tmp_path / "test_plugin.py").write_text(
        textwrap.dedent(
            """
            import tokensieve as ts
            from tokensieve.testing import StrategyConformance


            class Deaf(ts.Scorer):
                name = "deaf"

                def score(self, tokens):
                    return tokens.features.nan_to_num().sum(dim=-1)


            class Frank(Deaf):
                name = "frank"
                known_failures = {"no_nan": "what is no number counts as zero"}


            class TestDeaf(StrategyConformance):
                strategy = Deaf


            class TestFrank(StrategyConformance):
                strategy = Frank
            """
        ),
        encoding="utf-8",
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-ra",
        "-p",
        "no:cacheprovider",
        "-k",
        "no_nan or tiny",
        str(tmp_path),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    left = 2 * (len(parametrize_strategy_checks(Norm())) - 2)
    assert result.returncode == 1
    assert f"1 failed, 2 passed, {left} deselected, 1 xfailed" in result.stdout
    assert "FAILED test_plugin.py::TestDeaf::test_law[Deaf()-no_nan]" in result.stdout
    assert "what is no number counts as zero" in result.stdout
