"""How good masks are: one mask against the truth, the methods of a bundle over a data set, and statistics of both."""
