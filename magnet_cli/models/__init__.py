"""Networks, and the bundles that they come in."""
