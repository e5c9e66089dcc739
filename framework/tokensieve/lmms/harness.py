"""What lmms-eval itself does otherwise in a run of one of our models: its response cache, and where it writes samples.

Both know a model by the text of its arguments only, and offer no hook. So their functions are wrapped when the first
model is made, once, and act for our models alone.
"""

# lmms-eval has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_eval.caching.response_cache import ResponseCache
from lmms_eval.loggers.evaluation_tracker import EvaluationTracker
from lmms_eval.utils import simple_parse_args_string
from loguru import logger

from tokensieve.lmms.ledger import Ledger
from tokensieve.lmms.manifests import MODEL, WRAP

_REPLACED = ("recipe", "keep", "positions")
"""Arguments for which the recipe's content stands in the key of the cache."""


class Attached:
    """What lmms-eval has to know of a model.

    Attributes:
        content: what decides answers beside the other arguments.
        ledger: the ledger, which is written beside the samples.
    """

    def __init__(self, content: Mapping[str, Any], ledger: Ledger) -> None:
        self.content = dict(content)
        self.ledger = ledger


_latest: list[Attached] = []
"""What belongs to the model that was made last: lmms-eval makes and runs one after the other, and writes afterwards."""


def attach(attached: Attached) -> None:
    """Let the response cache know a model by its recipe's content, and let its ledger be written beside the samples."""
    _latest[:] = [attached]
    create, save = ResponseCache.create, EvaluationTracker.save_results_aggregated
    if not hasattr(create, "_tokensieve"):
        ResponseCache.create = _keyed_by_content(create)
    if not hasattr(save, "_tokensieve"):
        EvaluationTracker.save_results_aggregated = _with_ledger(save)


def _attached() -> Attached | None:
    return _latest[0] if _latest else None


def _keyed_by_content(create: Any) -> Any:
    @functools.wraps(create)
    def keyed(*args: Any, **kwargs: Any) -> Any:
        attached = _attached()
        if attached is not None and kwargs.get("model") in (MODEL, WRAP):
            given = kwargs.get("model_args") or {}
            given = simple_parse_args_string(given) if isinstance(given, str) else given
            others = {name: value for name, value in given.items() if name not in _REPLACED}
            kwargs["model_args"] = others | {"content": attached.content}
        return create(*args, **kwargs)

    keyed._tokensieve = True  # type: ignore[attr-defined]
    return keyed


def _with_ledger(save: Any) -> Any:
    @functools.wraps(save)
    def saved(tracker: Any, *args: Any, **kwargs: Any) -> Any:
        done = save(tracker, *args, **kwargs)
        attached = _attached()
        # The tracker has no date where it could not write, of which it warns.
        date = getattr(tracker, "date_id", None)
        if attached is not None and tracker.output_path and date is not None:
            # As the tracker names the files of samples.
            folder = Path(tracker.output_path) / tracker.general_config_tracker.model_name_sanitized
            for file in attached.ledger.write(folder, date):
                logger.info(f"Saving the ledger of kept visual tokens to {file}")
            attached.ledger.rows.clear()
        return done

    saved._tokensieve = True  # type: ignore[attr-defined]
    return saved
