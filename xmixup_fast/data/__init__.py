"""Datasets: readers list encoded images, decoders turn them into tensors, which stay in memory or are streamed."""
