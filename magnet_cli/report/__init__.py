"""What a finished mask looks like: the picture and the page beside it, from mask, report and image alone."""
