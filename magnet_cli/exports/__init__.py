"""Finished masks in the formats of other programs. Every file is made of a mask, never of a run."""
