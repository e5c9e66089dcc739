"""Measurement: what a run costs."""
