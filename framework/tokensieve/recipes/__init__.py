"""Recipes: their fields, reading and writing YAML, validation, review before a run, and the JSON Schema."""
