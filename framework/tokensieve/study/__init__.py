"""Studies: models x recipes x budgets x tasks x seeds, run cell by cell, and compared honestly."""
