"""The ledger: what a run kept, and replaying it."""
