"""What the README says of the files, and how long files are. The order of rooms is checked by import-linter."""

from __future__ import annotations

import re
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


def test_no_file_is_long() -> None:
    files = [path for folder in (*FOLDERS, "docs") for path in (ROOT / folder).rglob("*")]
    code = [path for path in files if path.suffix in (".py", ".cpp", ".cu", ".h", ".md")]
    assert len(code) > 150
    for path in code:
        assert len(path.read_text().splitlines()) <= 400, path.relative_to(ROOT)
