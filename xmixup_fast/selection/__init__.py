"""Selection: which source classes or images are mixed with which target class."""
