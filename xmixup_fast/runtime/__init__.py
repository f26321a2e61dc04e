"""Files, devices, processes and signals: what every room of the package needs from the machine that it runs on."""
