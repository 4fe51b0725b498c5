"""The picture and the page beside a finished mask, made from mask, report and image alone."""
