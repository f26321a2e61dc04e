"""Networks: a timm backbone with a target head and a source head, and how networks are built, saved and loaded."""
