"""Plugins: the hooks that they implement, and the registry of what they brought."""
