"""Decoders: encoded images become tensors."""
