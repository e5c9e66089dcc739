"""Mathematics that several methods share. It knows tensors only."""
