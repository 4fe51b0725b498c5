"""Durable results: the journal a run writes, and the files made of it at the end."""
