"""The tables of a report: as values, and as Markdown, LaTeX and CSV."""
