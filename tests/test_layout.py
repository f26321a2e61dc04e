"""The package's order, as docs/design.md gives it: a module imports those above it, never those below."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "xmixup_fast"
FOLDERS = ("xmixup_fast", "csrc", "bench", "tests")


def modules() -> list[str]:
    """All modules and subpackages: data, pool, models, ..."""
    found = [path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()]
    return sorted(name for name in found if not name.startswith("_"))


def documented() -> dict[str, int]:
    """Each module's place: its line in the design's list, or the end for commands; 0 for what is used throughout."""
    text = (ROOT / "docs" / "design.md").read_text()
    section = text.split("## Data's way through the code\n")[1].split("\n**Resident mode.**")[0]
    listed, prose = section.split("\n\nA module imports")
    place = dict.fromkeys(re.findall(r"`(\w+)(?:\.py|/)`", prose.split("are commands")[0]), len(listed))
    place |= dict.fromkeys(re.findall(r"`(\w+)\.py`", prose.split("`train.py`")[0]), 0)
    for number, line in enumerate(listed.splitlines(), start=1):
        if name := re.match(r"    (\w+)(?:\.py|/)", line):
            place[name[1]] = number
            place |= dict.fromkeys(re.findall(r"; (\w+)(?:\.py|/)", line), number)
    return place


def imported(path: Path) -> set[str]:
    """The package's modules that a file imports, also inside of functions."""
    depth = len(path.relative_to(PACKAGE).parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return names & set(modules())


def test_every_module_has_its_place() -> None:
    assert sorted(documented()) == modules()


def test_no_module_imports_a_later_one() -> None:
    place = documented()
    for name in modules():
        for path in (PACKAGE / name).rglob("*.py") if (PACKAGE / name).is_dir() else [PACKAGE / f"{name}.py"]:
            later = {other for other in imported(path) - {name} if place[other] > place[name] > 0}
            late = {other for other in imported(path) - {name} if place[name] == 0 and place[other] > 0}
            assert not later | late, f"{path.relative_to(ROOT)} imports {', '.join(sorted(later | late))}"


def test_the_readme_names_every_folder_and_file_of_the_root() -> None:
    text = (ROOT / "README.md").read_text().split("## Files\n")[1].split("\n## ")[0]
    tracked = [path.name + "/" * path.is_dir() for path in ROOT.iterdir() if not path.name.startswith(".")]
    made = {"README.md", "LICENSE", "build/", "dist/", "runs/", "bench_report.html"}
    for name in sorted(set(tracked) - made):
        if not name.endswith((".egg-info/", ".so")):
            assert re.search(rf"(^| ){re.escape(name)}", text, re.MULTILINE), name
    for name in re.findall(r"^    ([\w./]+)", text, re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_no_file_is_long() -> None:
    files = [path for folder in (*FOLDERS, "docs") for path in (ROOT / folder).rglob("*")]
    code = [path for path in files if path.suffix in (".py", ".cpp", ".cu", ".h", ".md")]
    assert len(code) > 150
    for path in code:
        assert len(path.read_text().splitlines()) <= 400, path.relative_to(ROOT)
