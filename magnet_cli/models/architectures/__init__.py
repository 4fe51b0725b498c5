"""The networks, by architecture."""
