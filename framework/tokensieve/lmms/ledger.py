"""The ledger of a run of lmms-eval: what was kept of the visual tokens of every document, a file for each task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensieve.ledger.run import Run

UNKNOWN = "which document this is, is not known: the class prepares several before it asks the model"


@dataclass(frozen=True)
class Document:
    """A document of a task of lmms-eval.

    Attributes:
        task: the name of the task.
        id: its number in the task's split.
    """

    task: str
    id: int


class Ledger:
    """What was kept of each document, by task."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def add(self, run: Run, documents: Sequence[Document], task: str) -> None:
        """Add the latest prefill of a run.

        Args:
            run: the ledger of a `prune`.
            documents: the documents of the prompts, in their order; if there are fewer or more of them than prompts, it
                is not known which is which.
            task: the task of the prompts where that is so.
        """
        prefill = run.latest
        known = len(documents) == len(prefill.visual)
        for row, visual in enumerate(prefill.visual):
            document = documents[row] if known else None
            ids = {stage.site: stage.samples[row].kept.tolist() for stage in prefill.stages}
            notes = [*prefill.notes, *(note for stage in prefill.stages for note in stage.notes)]
            entry = {
                "doc_id": None if document is None else document.id,
                "recipe": run.recipe.name,
                "recipe_hash": run.recipe.hash(),
                "visual_tokens": visual,
                "text_tokens": prefill.text[row],
                "kept": {site: len(kept) for site, kept in ids.items()},
                "kept_ids": ids,
                "mean_visual_per_layer": run.mean_visual(row),
                "question": prefill.questions[row] if prefill.questions else None,
                "notes": notes if known else [*notes, UNKNOWN],
            }
            self.rows.setdefault(task if document is None else document.task, []).append(entry)

    def write(self, folder: Path, stem: str) -> list[Path]:
        """Write `STEM_ledger_TASK.jsonl` for every task, in the order of documents, and return the files."""
        written = []
        for task, rows in self.rows.items():
            file = folder / f"{stem}_ledger_{task}.jsonl"
            ordered = sorted(rows, key=lambda row: (row["doc_id"] is None, row["doc_id"] or 0))
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered), encoding="utf-8")
            written.append(file)
        return written
