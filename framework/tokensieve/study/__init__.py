"""Studies: models × recipes × budgets × tasks × seeds, run cell by cell, with statistics and reports."""
