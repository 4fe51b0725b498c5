"""Finished masks in the formats of other programs: what is written here is made of a mask, never of a run."""
