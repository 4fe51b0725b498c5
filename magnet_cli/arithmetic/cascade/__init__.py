"""The arithmetic of CascadePSP on tensors."""
