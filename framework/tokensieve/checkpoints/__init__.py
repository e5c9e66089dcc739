"""Loading checkpoints from folders, and asking the loaded models questions."""
