"""What attention implementations take as a mask."""

from __future__ import annotations

from typing import Any, Literal

MaskKind = Literal["square", "row"]
"""`square` is `[batch, 1, n, keys]`, or none where it is causal; `row` is `[batch, keys]`, or none without padding."""


def mask_kind(implementation: str | None) -> MaskKind | None:
    """Return what mask the layers get under an attention implementation, or none if it is of another kind.

    Implementations that users register are known by the mask function that they register with them.

    Args:
        implementation: the config's `_attn_implementation`.
    """
    from transformers import masking_utils

    found: Any = masking_utils.AttentionMaskInterface()
    function = found.get(implementation)
    if function in (masking_utils.sdpa_mask, masking_utils.eager_mask):
        return "square"
    return "row" if function is masking_utils.flash_attention_mask else None
