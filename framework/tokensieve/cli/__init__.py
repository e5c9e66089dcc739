"""The command line: `tokensieve`, and `python -m tokensieve`.

It knows no method and no model family: what there is comes from the registry.
"""

from tokensieve.cli.app import app, main

__all__ = ["app", "main"]
