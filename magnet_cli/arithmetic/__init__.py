"""The mathematics of the papers on tensors: certainty, selection, merging, canvases, the published arithmetic."""
