"""Readers, one for each kind of dataset: they list the images and their classes, and read no image."""
