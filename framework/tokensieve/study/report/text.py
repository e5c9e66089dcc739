"""Text of a report that leaves this machine: without its paths."""

from __future__ import annotations

import re

_PATH = re.compile(
    r"""
    (?<![\w.~:/\\<-])                             # Not inside a word, an address or a tag ...
    (?:file://)?
    (?:/|[A-Za-z]:[/\\]|\\\\)                   # ... from a root of POSIX or Windows
    (?:[^\s/\\'"`,;:()<>\[\]{}|]+[/\\])+          # through at least one folder
    (?=[^\s/\\'"`,;:()<>\[\]{}|])                # to a name.
    """,
    re.VERBOSE,
)
_QUOTED = re.compile(r"""(?<=['"])(?:/|[A-Za-z]:[/\\]|\\\\)[^'"\n]*[/\\](?=[^'"/\\\n]+['"])""")


def without_folders(text: str) -> str:
    """Return text with absolute paths shortened to the last name, as `.../model`: they say where a machine has files.

    Addresses such as `s3://bucket/x`, relative paths and fractions stay.
    """
    return _PATH.sub(".../", _QUOTED.sub(".../", text))
