"""How model families carry visual tokens: what the author of an adapter implements."""
