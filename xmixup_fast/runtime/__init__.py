"""Files, devices, processes, signals, limits: what every room of the package needs from the machine that it runs on."""
