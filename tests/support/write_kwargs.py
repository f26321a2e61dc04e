"""Writes xmixup_fast/settings/kwargs.py: the settings as keyword arguments, with the types that fields.py gives them.

python tests/support/write_kwargs.py
    after a change of fields.py; tests/settings/test_kwargs.py says where it was forgotten
"""

from __future__ import annotations

import ast
from pathlib import Path

SETTINGS = Path(__file__).resolve().parents[2] / "xmixup_fast" / "settings"
HEAD = '''"""The settings as keyword arguments, for type checkers and editors; made by tests/support/write_kwargs.py."""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class SettingsKwargs(TypedDict, total=False):
    """Keyword arguments of :func:`xmixup_fast.fit`, with the names and types of the settings in fields.py."""

'''


OBJECTS = ("model", "weights")
"""Settings in whose place fit also takes objects, of types that this room does not know: networks, state dicts."""


def kwargs_text() -> str:
    """What kwargs.py has to hold."""
    source = (SETTINGS / "fields.py").read_text(encoding="utf-8")
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    (body,) = (node.body for node in classes if node.name == "Settings")
    fields = [node for node in body if isinstance(node, ast.AnnAssign)]
    kinds = {ast.unparse(node.target): ast.get_source_segment(source, node.annotation) for node in fields}
    kinds |= dict.fromkeys(OBJECTS, "Any")
    lines = [f"    {name}: {kind}\n" for name, kind in kinds.items()]
    return HEAD + "".join(lines)


if __name__ == "__main__":
    (SETTINGS / "kwargs.py").write_text(kwargs_text(), encoding="utf-8")
