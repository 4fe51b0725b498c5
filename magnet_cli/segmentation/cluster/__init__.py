"""Workers of a Dask cluster that share the images of a run, or the blocks of one image."""
