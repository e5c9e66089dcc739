"""The search itself, with recipes that are measured by arithmetic: duplicates, refusals, and going on."""

import json

import pytest

from tokensieve.errors import PluginError, RefusedError, StudyError
from tokensieve.search import optimiser as optimisers
from tokensieve.search import searching
from tokensieve.search.optimiser import Optimiser
from tokensieve.search.searching import Found, Search
from tokensieve.search.trial import Measured, Trial

from .conftest import REGISTRY, Pretended, shipped

GIVEN = {name: one for name, one in shipped().items() if name.split(" ")[0] in ("gsp", "script", "two-of-three")}


@pytest.fixture
def search(grammar, tmp_path):
    whole = grammar

    def start(measuring=None, folder="s", seed=0, settings=None, grammar=whole):
        return Search(
            tmp_path / folder, grammar, GIVEN, measuring or Pretended(), REGISTRY, seed, settings or {}, population=4
        )

    return start


def lines(found):
    return [trial.to_line() for trial in (*found.given, *found.drawn)]


def test_what_is_given_is_measured_first_and_the_number_of_trials_is_that_of_drawn_ones(search):
    measuring = Pretended()
    found = search(measuring).run(10)
    assert [trial.name for trial in found.given] == list(GIVEN)
    assert measuring.asked[: len(GIVEN)] == [one.hash for one in GIVEN.values()]
    assert sum(trial.state == "measured" for trial in found.drawn) == 10
    assert all(trial.name not in GIVEN for trial in found.drawn)


class Small:
    """A grammar of eight recipes."""

    def __init__(self, grammar):
        few = {"cuts": ("one",), "at": ("decoder.0",), "keep": ("16",), "f is": ("strategy",), "f as": ("plain",)}
        self.genes = {**grammar.genes, **few, "f use": ("gsp", "norm"), "f set": range(2)}
        self.hash, self.candidate, self.genes_of = "small", grammar.candidate, lambda candidate: None


def test_a_recipe_is_measured_once_and_later_ones_say_which_it_was(search, grammar, monkeypatch):
    # So many that even the rarest of the eight is drawn, whatever the order of draws.
    monkeypatch.setattr(searching, "MOST_REFUSED", 100)
    measuring = Pretended()
    found = search(measuring, grammar=Small(grammar)).run(50)
    assert len(set(measuring.asked)) == len(measuring.asked)
    # One of the eight is given; the search ends when nothing new is drawn any more.
    assert sum(trial.state == "measured" for trial in found.drawn) == 7
    same = [trial for trial in found.drawn if trial.state == "same"]
    by_name = {trial.name: trial for trial in (*found.given, *found.drawn)}
    assert all(by_name[trial.reason].candidate.hash == trial.candidate.hash for trial in same)
    assert "gsp at 16" in {trial.reason for trial in same}


def test_refused_and_failed_recipes_are_failed_trials_with_their_reasons(search):
    found = search(Pretended(refused=8, fails=4)).run(6)
    reasons = {state: {one.reason for one in found.drawn if one.state == state} for state in ("refused", "failed")}
    assert "it has a digit that is too small" in reasons["refused"]
    assert reasons["failed"] <= {"out of memory"}
    assert {trial.reason for trial in found.drawn if trial.measured} <= {""}
    assert [one for one in found.drawn if one.state == "measured"]


def test_a_search_of_what_is_always_refused_ends(search):
    found = search(Pretended(refused=16)).run(3)
    assert {trial.state for trial in found.drawn} <= {"refused", "same"}
    assert found.on_front() == ()


@pytest.mark.parametrize("stops", [(3,), (1, 2, 7)])
def test_going_on_after_some_trials_is_the_same_as_one_go(search, stops):
    whole = search(Pretended(refused=3, fails=1), "whole").run(11)
    for stop in stops:
        search(Pretended(refused=3, fails=1), "parts").run(stop)
    measuring = Pretended(refused=3, fails=1)
    found = search(measuring, "parts").run(11)
    assert lines(found) == lines(whole)
    # What was measured before is not measured again.
    assert len(measuring.asked) < 11


def test_going_on_after_an_interruption_is_the_same_as_one_go(search):
    whole = search(folder="whole").run(10)
    for stop_after in (0, 3, 6):
        with pytest.raises(KeyboardInterrupt):
            search(Pretended(stop_after=stop_after), "parts").run(10)
    assert lines(search(folder="parts").run(10)) == lines(whole)


def test_going_on_after_the_last_line_was_cut_off(search, tmp_path):
    whole = search(folder="whole").run(6)
    search(folder="parts").run(6)
    file = tmp_path / "parts" / "trials.jsonl"
    # Killed while the line of the last trial was written, before its outcome was told.
    file.write_text(file.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    found = search(folder="parts").run(6)
    assert {one.to_line() for one in found.given} == {one.to_line() for one in whole.given}
    assert Trial.from_line(file.read_text(encoding="utf-8").splitlines()[-1], REGISTRY)


def test_another_seed_draws_others_and_the_same_seed_the_same(search):
    one, same, other = (lines(search(folder=f, seed=s).run(5)) for f, s in (("a", 0), ("b", 0), ("c", 1)))
    assert one == same
    assert one != other


def test_another_search_in_the_folder_is_refused(search):
    search(settings={"study": "one"}).run(1)
    with pytest.raises(RefusedError, match=r"holds another search: it differs in seed, study"):
        search(settings={"study": "two"}, seed=3)


def test_a_damaged_file_of_a_search_is_said(search, tmp_path):
    search().run(1)
    (tmp_path / "s" / "trials.jsonl").write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(StudyError, match=r"a line of trials\.jsonl"):
        search()
    (tmp_path / "s" / "search.json").write_text("{", encoding="utf-8")
    with pytest.raises(RefusedError, match=r"search\.json cannot be read"):
        search()


def test_the_optimiser_learns(tmp_path):
    """Of ten numbers from 0 to 9, larger ones are drawn more and more often; both objectives are told."""
    genes = {f"g{i}": range(10) for i in range(10)}
    optimiser = Optimiser(tmp_path, genes, 0, [], 10)
    means = []
    for _ in range(12):
        draws = optimiser.ask()
        assert len(draws) == 10
        means.append(sum(sum(draw.genes.values()) for draw in draws) / 100)
        for draw in draws:
            optimiser.tell(draw.number, Measured(sum(draw.genes.values()) / 90, 0.5))
    assert max(means[-3:]) > means[0] + 1


def test_first_genes_are_asked_first_and_in_their_order(tmp_path):
    genes = {"a": ("x", "y"), "b": range(5)}
    first = [{"a": "y", "b": 4}, {"a": "x", "b": 0}, {"a": "y", "b": 2}]
    draws = Optimiser(tmp_path, genes, 0, first, 4).ask()
    assert [draw.genes for draw in draws[:3]] == first
    # Until they have an outcome, the same ones are asked for.
    assert Optimiser(tmp_path, genes, 0, first, 4).ask() == draws


def test_a_round_that_is_interrupted_while_it_is_drawn_leaves_nothing(tmp_path, monkeypatch):
    genes = {"a": range(50)}
    (tmp_path / "whole").mkdir()
    whole = Optimiser(tmp_path / "whole", genes, 5, [], 4).ask()
    optimiser = Optimiser(tmp_path, genes, 5, [], 4)
    sampler = optimiser._sampler

    def stopped(number):
        if number == 2:
            raise KeyboardInterrupt
        return sampler(number)

    monkeypatch.setattr(optimiser, "_sampler", stopped)
    with pytest.raises(KeyboardInterrupt):
        optimiser.ask()
    assert Optimiser(tmp_path, genes, 5, [], 4).ask() == whole


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: text.replace(b"{", b"", 1), lambda text: b""])
def test_a_damaged_journal_is_made_again_from_the_trials(search, tmp_path, damage):
    before = search().run(6)
    journal = tmp_path / "s" / "optuna.journal"
    journal.write_bytes(damage(journal.read_bytes()))
    if journal.read_bytes():
        with pytest.raises(RefusedError, match=r"optuna\.journal .*; remove it: the same command"):
            search()
        journal.unlink()
    measuring = Pretended()
    assert lines(search(measuring).run(6)) == lines(before)
    assert measuring.asked == []


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(PluginError, match=r"pip install 'tokensieve\[search\]'"):
        optimisers.import_optuna()


def test_the_front_has_what_no_other_beats_and_the_shortest_of_equal_ones():
    by_length = sorted(GIVEN.values(), key=lambda one: len(one.formula))
    short, *_, long = by_length

    def trial(name, candidate, *measured):
        return Trial(name, "measured", candidate, Measured(*measured))

    found = Found(
        (),
        (
            trial("long", long, 0.7, 0.2),
            trial("short", short, 0.7, 0.2),
            trial("beaten", short, 0.6, 0.2),
            trial("cheap", short, 0.5, 0.1),
            Trial("refused", "refused", reason="no"),
        ),
    )
    assert [one.name for one in found.on_front()] == ["cheap", "short"]


def test_trials_are_written_with_their_reasons(search, tmp_path):
    search(Pretended(refused=8)).run(3)
    written = [json.loads(line) for line in (tmp_path / "s" / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(one["reason"] for one in written if one["state"] in ("refused", "same"))
    assert all("recipe" in one and "accuracy" in one for one in written if one["state"] == "measured")
