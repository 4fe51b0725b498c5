"""Training: how every file in `weights/` was made."""
