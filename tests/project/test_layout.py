"""What the README says of the files, how long files are, and calls that hide their arguments."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("xmixup_fast", "csrc", "bench", "tests")


def test_the_readme_names_every_folder_and_file_of_the_root() -> None:
    text = (ROOT / "README.md").read_text().split("## Files\n")[1].split("\n## ")[0]
    tracked = [path.name + "/" * path.is_dir() for path in ROOT.iterdir() if not path.name.startswith(".")]
    made = {"README.md", "LICENSE", "build/", "dist/", "runs/", "bench_report.html"}
    for name in sorted(set(tracked) - made):
        if not name.endswith((".egg-info/", ".so")):
            assert re.search(rf"(^| ){re.escape(name)}", text, re.MULTILINE), name
    for name in re.findall(r"^    ([\w./]+)", text, re.MULTILINE):
        assert (ROOT / name).exists(), name


def python_code() -> dict[str, str]:
    """All Python code of the project by its place: files, and the blocks of the documentation."""
    tracked = subprocess.run(["git", "ls-files", "*.py", "*.md"], cwd=ROOT, capture_output=True, text=True)
    names = tracked.stdout.split() or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.[pm][yd]")]
    code = {name: (ROOT / name).read_text() for name in names if (ROOT / name).exists()}
    found = {name: text for name, text in code.items() if name.endswith(".py")}
    for name, text in code.items():
        if name.endswith(".md"):
            blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
            found |= {f"{name}, block {number}": block for number, block in enumerate(blocks, start=1)}
    return found


def test_no_call_splats_a_literal() -> None:
    """``f(*(a, b), c)`` hides which parameter gets which argument."""
    code = python_code()
    assert len(code) > 150
    for name, text in code.items():
        for call in ast.walk(ast.parse(text)):
            if isinstance(call, ast.Call):
                for argument in call.args:
                    hidden = isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Tuple | ast.List)
                    assert not hidden, f"{name}:{argument.lineno}"


def test_no_file_is_long() -> None:
    files = [path for folder in (*FOLDERS, "docs") for path in (ROOT / folder).rglob("*")]
    code = [path for path in files if path.suffix in (".py", ".cpp", ".cu", ".h", ".md")]
    assert len(code) > 150
    for path in code:
        assert len(path.read_text().splitlines()) <= 400, path.relative_to(ROOT)
