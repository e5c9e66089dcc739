"""Loading checkpoints with the Auto classes of transformers: as data, from local files, never with their own code."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

from tokensieve.errors import RefusedError, listing, short_message

LOCAL = {"local_files_only": True, "trust_remote_code": False}
"""The settings of every `from_pretrained`: without them transformers asks the network, and whether to run code."""


def local_checkpoint(source: str | Path, argument: str) -> Path:
    """Return the folder of a checkpoint; that of an id is in the hub's cache.

    Args:
        source: a folder, or the id `owner/name`.
        argument: the name of the caller's argument, for the message.

    Raises:
        RefusedError: if there is neither; the network is not asked.
    """
    folder = Path(source).expanduser()
    # Not by methods of the path, which raise where a name is too long.
    if os.path.isfile(folder / "config.json"):
        return folder
    if os.path.isdir(folder):
        raise RefusedError(f"{argument} is {folder}, and that is no checkpoint: it has no config.json")
    hint = "give a folder written by save_pretrained"
    if isinstance(source, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        cached = cached_folder(source)
        if cached is not None:
            return cached
        hint += f", or get it from the hub first: hf download {source}"
    raise RefusedError(f"{argument} is '{source}', and there is no such folder; nothing is downloaded: {hint}")


def cached_folder(repository: str) -> Path | None:
    """Return the folder of a repository in the hub's cache, or None if its config is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def from_pretrained(auto_class: Any, folder: Path, **settings: Any) -> Any:
    """Load with an Auto class.

    Raises:
        RefusedError: if it cannot be loaded from local files, or only by running code of the checkpoint.
    """
    try:
        return auto_class.from_pretrained(folder, **settings, **LOCAL)
    # Every missing or broken file of a checkpoint raises another type of error.
    except Exception as error:
        raise RefusedError(f"the checkpoint {folder} cannot be loaded: {short_message(error)}") from None


def tokenizer_from_pretrained(folder: Path) -> Any:
    """Load a tokenizer.

    Raises:
        RefusedError: if it cannot be loaded as `from_pretrained` does, or its vocabulary is missing.
    """
    from transformers import AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, folder)
    require_vocabulary(tokenizer, folder)
    return tokenizer


def require_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Raise if a tokenizer knows special tokens only: transformers makes such a one where its files are missing.

    Raises:
        RefusedError: if it does.
    """
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        names = listing({"tokenizer.json", *tokenizer.vocab_files_names.values()})
        raise RefusedError(
            f"the checkpoint {folder} has no tokenizer: there is none of the files {names}; save it there with "
            "save_pretrained"
        )


_COUNTING = (
    "patch_size",
    "vision_feature_select_strategy",
    "num_additional_image_tokens",
    "num_image_tokens",
    "image_seq_length",
    "image_seq_len",
    "spatial_merge_size",
    "downsample_factor",
    "pooling_ratio",
)
"""Settings of processors by which they count the tokens of a picture; some classes take them as None."""


def unset_fields(processor: Any) -> list[str]:
    """Return the settings that a processor counts the tokens of a picture by, and that are None."""
    taken = inspect.signature(type(processor).__init__).parameters
    return [name for name in _COUNTING if name in taken and getattr(processor, name, None) is None]


def require_counting_fields(processor: Any, folder: Path) -> None:
    """Raise if a processor cannot count the tokens of a picture, which is so for old files of LLaVA's family.

    Raises:
        RefusedError: naming the settings that are missing.
    """
    missing = unset_fields(processor)
    if missing == ["vision_feature_select_strategy"]:
        from transformers import AutoConfig

        # Without a class token to leave out, a processor counts right without it.
        config = from_pretrained(AutoConfig, folder)
        missing = [] if getattr(config, missing[0], None) == "full" else missing
    if missing:
        raise RefusedError(
            f"the checkpoint {folder} has a {type(processor).__name__} without {listing(missing)}, by which it counts "
            f"the tokens of a picture; set it as the model's config has it (processor.{missing[0]} = ...) and save the "
            "processor there again with save_pretrained"
        )


def model_from_pretrained(auto_class: Any, folder: Path, **settings: Any) -> Any:
    """Load a model with an Auto class, in evaluation mode.

    Raises:
        RefusedError: if it cannot be loaded as `from_pretrained` does, or some of its weights are missing.
    """
    model, found = from_pretrained(auto_class, folder, output_loading_info=True, **settings)
    missing = found["missing_keys"]
    if missing:
        raise RefusedError(
            f"the checkpoint {folder} lacks {len(missing)} of the model's weights ({listing(missing, limit=3)}), "
            "which would be random; save it again, whole"
        )
    return model.eval()
