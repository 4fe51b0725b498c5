"""`magnet refine`: a mask that something else made, sharpened object by object, at any size in bounded memory."""
