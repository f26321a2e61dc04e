"""Decoding: encoded images become tensors."""
