"""Declaring a study in YAML: its models, recipes, budgets, tasks and controls."""
