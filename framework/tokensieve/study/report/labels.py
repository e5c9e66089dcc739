"""How papers name the methods of a study: titles and citation keys of their recipes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from tokensieve.study.analysis.comparison import Comparison
from tokensieve.study.report.published import PublishedResult
from tokensieve.study.report.tables.latex import MethodLabel, escape_latex

_ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{2})(\d{2}\.\d{4,5})")
_HEAD = """\
% The methods of these tables. Titles are the names of methods: reference managers complete the entries by their
% arXiv numbers. Rename the keys to those of your own bibliography, or define these there.
"""


def method_labels(
    comparisons: Sequence[Comparison], published: Sequence[PublishedResult] = ()
) -> tuple[dict[str, MethodLabel], str]:
    """Return how papers name methods, and the BibTeX entries of the citation keys.

    A method has the title of its recipe, unless the study gave it another name than the recipe's. Titles that several
    methods have get the study's name behind.

    Args:
        comparisons: the comparisons.
        published: published results, which have keys of their own.
    """
    recipes: dict[str, Mapping[str, object]] = {}
    for comparison in comparisons:
        for arm in comparison.arms:
            own = arm.cells[0].cell.recipe
            if arm.role == "method" and own is not None and own.get("name") == arm.method:
                recipes.setdefault(arm.method, own)
    titles = {name: str(recipe.get("title") or name) for name, recipe in recipes.items()}
    shared = {title for title, count in Counter(titles.values()).items() if count > 1}
    labels, entries = {}, {}
    for name, recipe in recipes.items():
        title = f"{titles[name]} ({name})" if titles[name] in shared else titles[name]
        paper = recipe.get("paper")
        key = re.sub(r"[^A-Za-z0-9_.:+-]+", "-", name).strip("-") if isinstance(paper, str) else ""
        labels[name] = MethodLabel(title, key or None)
        if key and isinstance(paper, str):
            entries[key] = _entry(key, titles[name], paper)
    for one in published:
        labels[one.label] = MethodLabel(one.label, one.cite)
    return labels, "\n".join([_HEAD, *entries.values()]) if entries else ""


def _entry(key: str, title: str, paper: str) -> str:
    # Without authors, styles sort by `key`.
    fields = {"key": escape_latex(title), "title": f"{{{escape_latex(title)}}}"}
    found = _ARXIV.search(paper)
    if found is not None:
        fields |= {"eprint": "".join(found.groups()), "archivePrefix": "arXiv", "year": f"20{found.group(1)}"}
    fields["url"] = paper
    return "\n".join([f"@misc{{{key},", *(f"  {name} = {{{value}}}," for name, value in fields.items()), "}", ""])
