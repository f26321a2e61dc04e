"""Training: a run from its settings to the trained network."""
