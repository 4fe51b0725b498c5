"""One scheduler over passes and groups of blocks: the only place that joins reading, networks and writing."""
