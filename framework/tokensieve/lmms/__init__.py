"""Models of lmms-eval whose visual tokens are pruned: `--model tokensieve` and `--model tokensieve_wrap`.

Only `manifests`, `arguments` and `ledger` can be imported without lmms-eval.
"""
