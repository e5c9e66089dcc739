"""Findings of a study: what may be compared, the differences, and how sure they are. Draws nothing."""
