"""Mathematics that several strategies share. It depends on tensors only."""
