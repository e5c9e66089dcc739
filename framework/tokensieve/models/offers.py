"""Which evidence is available at which kind of site.

Adapters and the review of recipes share these sets, so that both agree on what a site offers.
"""

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
"""Evidence from the layers of the vision encoder, at decoder sites of families that declare these layers."""
DECODER_EVIDENCE = frozenset(
    {
        Evidence.DECODER_ATTENTION,
        Evidence.DECODER_CONTENT,
        Evidence.DECODER_KEYS,
        Evidence.DECODER_TEXT,
        Evidence.DECODER_TEXT_HEADS,
    }
)
"""Evidence from the layer before the site, at `decoder.1` and deeper."""
PIXEL_EVIDENCE = frozenset({Evidence.FEATURES, Evidence.GRID, Evidence.SIZES})
"""Evidence before the vision tower, where the features of a token are its normalised pixels."""
ENCODER_EVIDENCE = frozenset({Evidence.FEATURES, Evidence.GRID, Evidence.SIZES, Evidence.VISION_KEYS})
"""Evidence at every encoder site."""


def decoder_evidence(block: int) -> frozenset[Evidence]:
    """Return the evidence at `decoder.block` that does not depend on the vision encoder."""
    always = {Evidence.FEATURES, Evidence.QUERY, Evidence.TEXT_FEATURES, Evidence.GRID, Evidence.SIZES}
    return frozenset(always | (DECODER_EVIDENCE if block else set()))
