"""Hooks of the site's build: formulas as MathML, links out of docstrings, tables of settings and texts of commands.

Nothing is imported but the sources' text, so that the site is built without torch and a compiler.
"""

from __future__ import annotations

import ast
import html
import re
from itertools import pairwise
from pathlib import Path
from runpy import run_path
from typing import Any

from latex2mathml.converter import convert

PACKAGE = Path(__file__).resolve().parent.parent / "xmixup_fast"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in `<!-- settings -->`, for all or with the names of some, and `<!-- usage NAME -->` for a command."""
    markdown = re.sub(r"<!-- settings( [\w ]+)? -->", lambda match: settings_table((match[1] or "").split()), markdown)
    return re.sub(r"<!-- usage (\w+) -->", lambda match: usage(match[1]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Makes MathML of formulas, and links of docstrings' roles, such as :func:`xmixup_fast.mix`."""
    inline, block = (
        r'<span class="arithmatex">\\\((.*?)\\\)</span>',
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>',
    )
    content = re.sub(inline, lambda match: formula(match[1], "inline"), content, flags=re.S)
    content = re.sub(block, lambda match: formula(match[1], "block"), content, flags=re.S)
    return re.sub(r":(?:func|class|meth|mod):<code>~?([\w.]+)</code>", lambda match: link(match[1]), content)


def formula(latex: str, display: str) -> str:
    """MathML, which browsers show without a script."""
    return convert(html.unescape(latex.strip()), display=display)


def link(name: str) -> str:
    """A link to what a role names, where it is one of the package's public names; modules and folders have no page."""
    short = name.rsplit(".", 1)[-1]
    if name != f"xmixup_fast.{short}" or (PACKAGE / f"{short}.py").exists() or (PACKAGE / short).is_dir():
        return f"<code>{name.removeprefix('xmixup_fast.')}</code>"
    return f'<autoref identifier="{name}"><code>{short}</code></autoref>'


def usage(command: str) -> str:
    """A command's docstring: where indented lines explain the ones before, these are commands."""
    room = PACKAGE if command == "train" else PACKAGE / "commands"
    tree = ast.parse((room / f"{command}.py").read_text(encoding="utf-8"))
    parts = []
    for paragraph in (ast.get_docstring(tree) or "").split("\n\n"):
        lines = paragraph.split("\n")
        commands = [line for line in lines if not line.startswith("    ")]
        meaning = escaped(" ".join(line.strip() for line in lines if line.startswith("    ")))
        shown = "\n".join(commands)
        parts.append(f"```sh\n{shown}\n```\n\n{meaning}" if meaning else escaped(shown))
    return "\n\n".join(parts)


def settings_table(names: list[str]) -> str:
    """Name, type, default and docstring of some settings; without names of all, a table for each group."""
    if not names:
        tables = run_path(str(PACKAGE / "settings" / "groups.py"))  # which imports nothing
        of_methods = {f"for {method} alone": own for method, own in tables["METHOD_SETTINGS"].items()}
        groups = {**tables["GROUPS"], **of_methods}
        return "\n\n".join(f"### {title.capitalize()}\n{settings_table([*own])}" for title, own in groups.items())
    tree = ast.parse((PACKAGE / "settings" / "fields.py").read_text(encoding="utf-8"))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    rows: dict[str, str] = {}
    for field, docstring in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(docstring, ast.Expr):
            name, meaning = field.target.id, " ".join(ast.literal_eval(docstring.value).split())
            default = f"`{ast.literal_eval(field.value)}`" if field.value else "must be given"
            rows[name] = f"| `{name}` | {default} | {escaped(meaning)}<br>*{kind(field.annotation)}* |"
    return "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *(rows[name] for name in names)])


def kind(annotation: ast.expr) -> str:
    """A setting's choices, or the name of its type."""
    names = [node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)]
    choices = [node.value for node in ast.walk(annotation) if isinstance(node, ast.Constant)]
    known = {"str": "text", "int": "whole number", "float": "number", "bool": "on or off"}
    types = [word for name, word in known.items() if name in names]
    return ", ".join(dict.fromkeys(str(word) for word in [*types, *choices] if word is not None))


def escaped(text: str) -> str:
    """Text in which Markdown finds nothing."""
    return re.sub(r"([|$*_<>~])", r"\\\1", text)
