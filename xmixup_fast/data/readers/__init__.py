"""Readers of datasets: each lists the images of one kind of dataset, and reads none."""
