"""The parts of the command ``compare``: the plan, the worker processes, the file of results, tables and plot."""
