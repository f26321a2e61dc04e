"""What runs on a machine need: whole files, devices, processes, signals."""
