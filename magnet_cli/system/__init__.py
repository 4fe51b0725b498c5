"""Memory, durable files, threads and stored speeds: this room knows no image."""
