"""Searching for recipes: found on one part of the pictures, and confirmed on the other.

A recipe is a formula with settings, sites and budgets.

Only `optimiser` needs Optuna, and imports it when a search starts.
"""
