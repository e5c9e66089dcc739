"""Which evidence there is at which kind of site."""

from __future__ import annotations

from tokensieve.evidence import Evidence

VISION_EVIDENCE = frozenset(
    {
        Evidence.VISION_ATTENTION,
        Evidence.VISION_RECEIVED,
        Evidence.VISION_MIDDLE,
        Evidence.VISION_KEYS,
        Evidence.VISION_FEATURES,
    }
)
DECODER_EVIDENCE = frozenset(
    {Evidence.DECODER_ATTENTION, Evidence.DECODER_CONTENT, Evidence.DECODER_KEYS, Evidence.DECODER_TEXT}
)
ENCODER_EVIDENCE = frozenset({Evidence.FEATURES, Evidence.GRID, Evidence.SIZES, Evidence.VISION_KEYS})


def decoder_evidence(block: int) -> frozenset[Evidence]:
    """Return what the engine itself can collect at `decoder.block`."""
    always = {Evidence.FEATURES, Evidence.QUERY, Evidence.TEXT_FEATURES, Evidence.GRID, Evidence.SIZES}
    return frozenset(always | (DECODER_EVIDENCE if block else set()))
