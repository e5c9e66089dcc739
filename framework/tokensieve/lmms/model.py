"""`--model tokensieve`: a checkpoint of transformers' image-text-to-text, pruned, for tasks of pictures and videos."""

# lmms-eval has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessages
from loguru import logger
from PIL import Image
from tqdm import tqdm

from tokensieve.checkpoints.loaded_model import LoadedModel, quiet
from tokensieve.checkpoints.loading import load
from tokensieve.errors import RefusedError
from tokensieve.lmms.arguments import ModelArguments, content_of
from tokensieve.lmms.harness import Attached, attach
from tokensieve.lmms.ledger import Document, Ledger
from tokensieve.lmms.media import frames_of, picture_of
from tokensieve.lmms.pruning import Pruning, require_harness
from tokensieve.models.pretrained import local_checkpoint
from tokensieve.plugins.registry import default_registry
from tokensieve.tasks.lmms.grading import cut
from tokensieve.tasks.lmms.task import LONGEST

_TAKEN = frozenset({"max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty"})
"""Settings of generation that are passed on, beside `until`, at which answers are cut."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """A request as the processor takes it.

    Attributes:
        place: its place among the requests.
        document: its document.
        text: the rendered prompt.
        pictures: its pictures.
        videos: the frames of its videos.
        settings: how its answer is generated.
    """

    place: int
    document: Document
    text: str
    pictures: list[Image.Image]
    videos: list[list[Image.Image]]
    settings: Mapping[str, Any]

    @property
    def alike(self) -> str:
        """What prompts of one batch have in common."""
        kinds = [bool(self.pictures), bool(self.videos)]
        return json.dumps([self.document.task, kinds, dict(self.settings)], sort_keys=True, default=str)


class PrunedModel(lmms):
    """A pruned checkpoint as lmms-eval asks it: by the messages of chats.

    Attributes:
        ledger: what was kept of each document.
    """

    is_simple = False

    def __init__(self, **given: Any) -> None:
        super().__init__()
        require_harness()
        arguments = ModelArguments.read(given)
        registry = default_registry()
        recipe = arguments.load_recipe(registry)
        shipped = registry.checkpoints.get(arguments.pretrained)
        folder = local_checkpoint(arguments.pretrained, "pretrained") if shipped is None else shipped.folder
        query_encoder = arguments.find_query_encoder(None if shipped is None else shipped.query_encoder)
        self.ledger = Ledger()
        self._loaded: LoadedModel = load(
            folder, registry, [recipe] if recipe else [], arguments.device, arguments.dtype
        )
        self._pruning = None
        if recipe is not None:
            self._pruning = Pruning(recipe, registry, query_encoder, self._loaded.model.device, self.ledger)
            self._pruning.check(self._loaded.model, self._loaded.processor)
        self._arguments = arguments
        attach(Attached(content_of(recipe, registry), self.ledger))

    @property
    def batch_size(self) -> int:
        """How many prompts are asked at once."""
        return self._arguments.batch_size

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return torch.device(self._loaded.model.device)

    @property
    def model(self) -> Any:
        """The model."""
        return self._loaded.model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self._loaded.processor.tokenizer

    def clean(self) -> None:
        """Free the model: lmms-eval has all answers, and may load a judge."""
        del self._loaded, self._pruning
        super().clean()

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Refuse tasks that score given answers.

        Raises:
            RefusedError: always.
        """
        raise RefusedError(
            "--model tokensieve generates answers; a task that scores given ones (multiple_choice, loglikelihood) "
            "would select tokens by a prompt that holds the answer"
        )

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Refuse tasks of several rounds.

        Raises:
            RefusedError: always.
        """
        raise RefusedError("--model tokensieve answers in one round, and this task has several")

    def generate_until(self, requests: list[Any]) -> list[GenerationResult]:
        """Return the answers, in batches of prompts that are alike."""
        found: dict[int, GenerationResult] = {}
        waiting: dict[str, list[Prompt]] = {}
        seconds, new = 0.0, 0
        with tqdm(total=len(requests), desc="Model Responding") as bar:

            def ask(prompts: list[Prompt]) -> None:
                nonlocal seconds, new
                started = time.perf_counter()
                answers = self._answers(prompts)
                seconds += time.perf_counter() - started
                found.update(zip([prompt.place for prompt in prompts], answers, strict=True))
                new += sum(answer.token_counts.output_tokens for answer in answers)
                bar.update(len(prompts))

            for place, request in enumerate(requests):
                prompt = self._prompt(place, request)
                batch = waiting.setdefault(prompt.alike, [])
                batch.append(prompt)
                if len(batch) == self.batch_size:
                    ask(waiting.pop(prompt.alike))
            for rest in waiting.values():
                ask(rest)
        log_metrics(total_gen_tokens=new, total_elapsed_time=seconds, avg_speed=new / seconds if seconds else 0.0)
        return [found[place] for place in range(len(requests))]

    def _prompt(self, place: int, request: Any) -> Prompt:
        _, to_messages, settings, number, task, split = request.args
        chat = ChatMessages(messages=to_messages(self.task_dict[task][split][number]))
        pictures, videos, sounds = chat.extract_media()
        if sounds:
            raise RefusedError(f"document {number} of {task} has sound, which --model tokensieve does not take")
        unknown = sorted(set(settings) - _TAKEN - {"until"})
        if unknown and place == 0:
            logger.warning(f"generation_kwargs of {task} that are not used: {', '.join(unknown)}")
        return Prompt(
            place,
            Document(task, number),
            self._render(chat),
            [picture_of(one) for one in pictures],
            [frames_of(one, self._arguments.frames) for one in videos],
            {name: value for name, value in settings.items() if name not in unknown},
        )

    def _render(self, chat: ChatMessages) -> str:
        turns = [
            {
                "role": turn.role,
                "content": [
                    {"type": "text", "text": part.text} if part.type == "text" else {"type": part.type}
                    for part in turn.content
                ],
            }
            for turn in chat.messages
        ]
        return self._loaded.render_chat(turns)

    def _answers(self, prompts: Sequence[Prompt]) -> list[GenerationResult]:
        loaded, settings = self._loaded, dict(prompts[0].settings)
        pictures = [prompt.pictures for prompt in prompts] if prompts[0].pictures else []
        videos = [frames for prompt in prompts for frames in prompt.videos]
        made = loaded.tensors([prompt.text for prompt in prompts], pictures, videos)
        inputs = dict(made.to(loaded.model.device, dtype=loaded.model.dtype))
        until = settings.pop("until", None)
        with torch.inference_mode(), quiet():
            written = self._generate(inputs, generation(settings), [prompt.document for prompt in prompts])
        width = inputs["input_ids"].shape[1]
        texts = loaded.processor.batch_decode(written[:, width:], skip_special_tokens=True)
        ends = torch.as_tensor(loaded.model.generation_config.eos_token_id or -1).reshape(-1).tolist()
        return [
            GenerationResult(
                text=cut(text, until),
                token_counts=TokenCounts(
                    input_tokens=int(inputs["attention_mask"][row].sum()),
                    output_tokens=_length(written[row, width:].tolist(), ends),
                ),
            )
            for row, text in enumerate(texts)
        ]

    def _generate(self, inputs: dict[str, Any], settings: dict[str, Any], documents: list[Document]) -> Any:
        loaded = self._loaded
        if self._pruning is None:
            return loaded.model.generate(**inputs, **settings)
        with self._pruning.of(loaded.model, loaded.processor, documents, len(documents), documents[0].task):
            return loaded.model.generate(**inputs, **settings)


def generation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `generate` for those of a task: greedy unless the temperature is above 0."""
    taken = {"max_new_tokens": LONGEST, "num_beams": 1, **settings}
    if not (taken.get("temperature") or 0) > 0:
        # Sampling's own settings are refused by `generate` where nothing is sampled.
        return {name: taken[name] for name in taken if name not in ("temperature", "top_p", "top_k")} | {
            "do_sample": False
        }
    return {name: value for name, value in taken.items() if value is not None} | {"do_sample": True}


def _length(ids: Sequence[int], ends: Sequence[int]) -> int:
    """Return how many tokens an answer has; behind its end there is padding."""
    return next((place + 1 for place, one in enumerate(ids) if one in ends), len(ids))
