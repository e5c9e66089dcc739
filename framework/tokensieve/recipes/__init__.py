"""Recipes: which composition cuts where and to how many tokens; reading, writing and reviewing them."""
