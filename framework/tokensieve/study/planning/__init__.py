"""Planning a study: its cells and controls, checked before anything runs."""
