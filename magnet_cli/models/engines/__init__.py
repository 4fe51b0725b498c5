"""Engines that compute a network in PyTorch's place: a graph in a file, called with patches as a module is."""
