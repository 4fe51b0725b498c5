"""The contenders of a bench of `magnet refine`: a cascade, and masks that it sharpens."""
