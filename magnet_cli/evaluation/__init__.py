"""Scores of masks: of one mask against the truth, and of the methods of a bundle over a data set, with statistics."""
