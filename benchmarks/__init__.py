"""Benchmarks: ratios of times that are measured side by side in one run, so that they hold on any machine."""
