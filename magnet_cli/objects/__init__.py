"""The objects of a mask that something else made: how it is read, and its connected components, in bounded memory."""
