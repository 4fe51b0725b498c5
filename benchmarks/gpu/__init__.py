"""Checks that only a GPU can make, in parts that are processes of their own. `scripts/gpu` runs them all."""
