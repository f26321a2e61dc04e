"""Sources that are elsewhere: what fsspec reaches, of which the images that are asked for are fetched."""
