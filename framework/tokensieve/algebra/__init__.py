"""The algebra of selections: sets of tokens, chains of sets, budgets, reductions. It knows torch only."""
