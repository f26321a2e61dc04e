"""Settings: all that a run can be told, from Python, a YAML file or flags."""
