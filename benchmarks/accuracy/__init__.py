"""Accuracy on scenes that a model has never seen: what is in docs/accuracy.md, and how to make it again."""
