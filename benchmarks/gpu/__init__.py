"""What only a GPU can show, in parts that are processes of their own: `scripts/gpu` runs them all."""
