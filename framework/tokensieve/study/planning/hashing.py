"""The hash of plain data."""

from __future__ import annotations

import hashlib
import json


def content_hash(content: object, digits: int = 16) -> str:
    """Return hex digits of the SHA-256 of plain data."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
