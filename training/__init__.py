"""Training of the shipped models from scratch, on the task `world`."""
