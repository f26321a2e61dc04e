"""The commands, a file each: `xmixup NAME` runs `main` of the file NAME."""
