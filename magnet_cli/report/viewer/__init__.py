"""`magnet view`: tiles of an image and of its masks for a page in the browser, served on loopback alone."""
