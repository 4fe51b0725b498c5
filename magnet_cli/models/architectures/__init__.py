"""Architectures of networks, a module for each family."""
