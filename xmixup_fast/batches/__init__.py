"""Batches: what each training step looks at, decided from the seed, then rendered."""
