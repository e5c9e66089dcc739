"""Training of the embedded models, from nothing, on the embedded world."""
