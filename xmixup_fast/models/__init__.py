"""Networks: a timm backbone with a target head and a source head, and how it is built, saved and loaded."""
