"""What is known of a name: one card for each thing that is registered under it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tokensieve.composers.expression import Composer
from tokensieve.errors import SettingError, TokensieveError, UnknownNameError, did_you_mean
from tokensieve.evidence import Evidence
from tokensieve.models.offers import DECODER_EVIDENCE, ENCODER_EVIDENCE, VISION_EVIDENCE, decoder_evidence
from tokensieve.plugins.kinds import by_kind
from tokensieve.plugins.parameters import NOT_DESCRIBED, Parameter, attribute_docstrings, parameters, sentence
from tokensieve.plugins.plugin import broken
from tokensieve.plugins.registry import Registry
from tokensieve.recipes.formulas import format_budget
from tokensieve.recipes.recipe import Recipe
from tokensieve.strategy import Appraiser, Chooser, Merger, Ranker, Scorer, Strategy

KINDS = (Merger, Ranker, Chooser, Appraiser, Scorer)
_KNOWN_SITES = {
    "encoder.K": ENCODER_EVIDENCE,
    "decoder.0": decoder_evidence(0) | VISION_EVIDENCE,
    "decoder.1 and deeper": decoder_evidence(1) | VISION_EVIDENCE,
}


@dataclass(frozen=True)
class Card:
    """What is known of something registered.

    Attributes:
        kind: `strategy`, `composer`, `recipe`, `adapter`, `task`, `evidence`, `checkpoint` or `geometry`.
        name: the name.
        origin: the plugin that brings it.
        what: a sentence about it.
        facts: what else is known, by what it is about.
        parameters: its parameters; empty where it takes none.
    """

    kind: str
    name: str
    origin: str
    what: str
    facts: Mapping[str, str]
    parameters: tuple[Parameter, ...] = ()


def cards(name: str, registry: Registry) -> list[Card]:
    """Return a card for each thing of a name: a recipe and a strategy may share one.

    Raises:
        UnknownNameError: if there is none.
    """
    tables = {"evidence": {str(kind): kind for kind in Evidence}, **by_kind(registry)}
    found = [_card(kind, name, registry) for kind, table in tables.items() if name in table]
    if not found:
        found = [_card("composer", one, registry) for one, cls in registry.composers.items() if cls.symbol == name]
    # Studies write tasks with hyphens, too.
    if not found and name.replace("-", "_") in registry.tasks:
        found = [_card("task", name.replace("-", "_"), registry)]
    if found:
        return found
    known = {one: kind for kind, table in tables.items() for one in table}
    near = did_you_mean(name, known)
    raise UnknownNameError(
        f"nothing is named '{name}': no {', '.join(list(tables)[:-1])} or geometry.{near} `tokensieve plugins` lists "
        f"what there is.{broken(registry.plugins)}"
    )


def _card(kind: str, name: str, registry: Registry) -> Card:
    origin = "tokensieve" if kind == "evidence" else registry.origin(kind, name)
    facts: Iterator[tuple[str, str]]
    if kind == "strategy":
        strategy = registry.strategies[name]
        facts = itertools.chain(_strategy_facts(strategy), _used_in(name, registry))
        return Card(kind, name, origin, sentence(strategy), dict(facts), parameters(strategy))
    if kind == "composer":
        composer = registry.composers[name]
        facts = itertools.chain(_composer_facts(composer), _used_in(name, registry))
        return Card(kind, name, origin, sentence(composer), dict(facts), parameters(composer))
    if kind == "task":
        task = registry.tasks[name]
        return Card(kind, name, origin, sentence(task), {"version": str(task.version)}, parameters(task))
    if kind == "recipe":
        return _recipe_card(name, origin, registry)
    if kind == "evidence":
        evidence = Evidence(name)
        said = attribute_docstrings(Evidence).get(evidence.name, NOT_DESCRIBED)
        return Card(kind, name, origin, said, dict(_evidence_facts(evidence, registry)))
    if kind == "adapter":
        adapter = registry.adapters[name]
        known = {"model types": ", ".join(sorted(adapter.model_types)), "refused": adapter.refusal_reason or ""}
        return Card(kind, name, origin, sentence(adapter), {about: text for about, text in known.items() if text})
    if kind == "checkpoint":
        checkpoint = registry.checkpoints[name]
        known = {"folder": str(checkpoint.folder), "query encoder": str(checkpoint.query_encoder or "none")}
        return Card(kind, name, origin, "A trained model that is shipped.", known)
    file = str(registry.geometries[name])
    return Card(kind, name, origin, "The geometry of a released model, for counting its cost.", {"file": file})


def recipe_sentence(text: str) -> str:
    """Return what the comment at the head of a recipe file says first, up to an empty line, on one line."""
    head = itertools.takewhile(lambda line: line.startswith("#") and line.strip("# \t"), text.splitlines())
    return " ".join(line.lstrip("#").strip() for line in head) or NOT_DESCRIBED


def sites_for(needs: frozenset[Evidence]) -> str:
    """Return where a strategy that needs some evidence can stand, in some model at least."""
    sites = [site for site, offered in _KNOWN_SITES.items() if needs <= offered]
    return ", ".join(sites) or "nowhere"


def kind_of_strategy(strategy: type[Strategy]) -> str:
    """Return the kind of a strategy, such as `Scorer`."""
    return next((kind.__name__ for kind in KINDS if issubclass(strategy, kind)), "Strategy")


def needs_of(strategy: type[Strategy]) -> frozenset[Evidence] | None:
    """Return the evidence that a strategy needs by default or in its first example; none where neither can be made."""
    for settings in ({}, *strategy.examples[:1]):
        try:
            return strategy(**settings).needs
        except SettingError:
            continue
    return None


def _strategy_facts(strategy: type[Strategy]) -> Iterator[tuple[str, str]]:
    yield "kind", kind_of_strategy(strategy)
    needs = needs_of(strategy)
    yield "needs", "by its settings" if needs is None else ", ".join(sorted(needs)) or "nothing"
    yield "can stand at", "by its settings" if needs is None else sites_for(needs)
    if not strategy.nested:
        yield "in formulas", "alone, under [m], right of >>, in per_group, in stream: another choice at every budget"
    yield "paper", strategy.paper or "none"
    time, memory = strategy.complexity or (NOT_DESCRIBED, NOT_DESCRIBED)
    yield "time", time
    yield "memory", memory
    for law, reason in strategy.known_failures.items():
        yield f"does not keep {law}", reason


def _composer_facts(composer: type[Composer]) -> Iterator[tuple[str, str]]:
    if composer.symbol is not None:
        yield "sign", composer.symbol
    fewest, most = composer.arity
    yield "operands", f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
    yield "reads", "all places of its operands" if composer.whole else "as deep as a budget needs"


def _evidence_facts(evidence: Evidence, registry: Registry) -> Iterator[tuple[str, str]]:
    yield "there is some at", sites_for(frozenset({evidence}))
    if evidence in VISION_EVIDENCE:
        yield "depends on", "the family: whether its vision encoder has such layers"
    if evidence in DECODER_EVIDENCE:
        yield "depends on", "the layer before the site"
    using = [name for name, one in sorted(registry.strategies.items()) if evidence in (needs_of(one) or ())]
    yield "needed by", ", ".join(using) or "no strategy"


def _used_in(name: str, registry: Registry) -> Iterator[tuple[str, str]]:
    """Return the shipped recipes whose formulas have a strategy or a composer."""
    using = []
    for recipe, file in sorted(registry.recipes.items()):
        try:
            read = Recipe.loads(file.read_text(encoding="utf-8"), registry, source=recipe)
        # A recipe that cannot be read is reported where recipes are listed.
        except (OSError, TokensieveError):
            continue
        formulas = [one for stage in read.stages for one in (stage.select, stage.by, stage.demand) if one is not None]
        if any(getattr(part, "name", None) == name for formula in formulas for part in formula.walk()):
            using.append(recipe)
    yield "recipes", ", ".join(using) or "none"


def _recipe_card(name: str, origin: str, registry: Registry) -> Card:
    text = registry.recipes[name].read_text(encoding="utf-8")
    facts = {}
    try:
        recipe = Recipe.loads(text, registry, source=name)
    except TokensieveError as error:
        facts["cannot be used"] = str(error)
    else:
        for number, entry in enumerate(recipe.to_dict()["stages"], 1):
            about = "stage" if len(recipe.stages) == 1 else f"stage {number}"
            facts[about] = (
                f"{entry['at']}: {entry['select']}, {format_budget(entry)}, {entry.get('rest', 'drop')} the rest"
            )
        facts["strategies"] = ", ".join(f"{operand} is {one!r}" for operand, one in recipe.strategies.items())
        facts["paper"] = recipe.paper or "none"
    facts["file"] = str(registry.recipes[name])
    return Card("recipe", name, origin, recipe_sentence(text), facts)
