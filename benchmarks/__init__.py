"""Timings: ratios of things measured side by side in one run, on whatever machine runs them."""
