"""YAML files of settings: what is taken for something else by YAML 1.1, or comes twice, is refused by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmixup_fast.settings.yaml_file import load_yaml, read_yaml

REFUSED = {
    "twice": (
        "lr: 0.5\nsteps: 3\nlr: 0.001\n",
        ["line 3: lr is there twice, on line 1 and on line 3; expected it once"],
    ),
    "equal values": ("lr: 0.5\nlr: 0.5\n", ["line 2: lr is there twice, on line 1 and on line 2"]),
    "dash and underscore": (
        "batch-size: 8\nbatch_size: 16\n",
        ["line 2: batch_size is there twice, on line 1, as batch-size"],
    ),
    "in quotes": ('lr: 1\n"lr": 2\n', ["line 2: lr is there twice"]),
    "in a mapping": (
        "class_weights:\n  cat: 1\n  dog: 2\n  cat: 3\n",
        ["line 4: cat is there twice, on line 2 and on line 4"],
    ),
    "in braces": ("model_args: {a: 1, a: 2}\n", ["line 1: a is there twice, on line 1 and on line 1"]),
    "in a list": ("methods:\n- {lr: 1}\n- lr: 1\n  lr: 2\n", ["line 4: lr is there twice, on line 3"]),
    "of a plan": ("targets:\n  a: {}\n  a: {}\n", ["line 3: a is there twice"]),
    "each of several": ("lr: 1\nlr: 2\nseed: 1\nseed: 2\nseed: 3\n", ["line 2: lr", "line 4: seed", "line 5: seed"]),
    "octal": ("seed: 010\n", ["line 1: 010 begins with a zero, as octal numbers do; write 10, or put it into quotes"]),
    "no octal digits": ("seed: 089\n", ["line 1: 089 begins with a zero, as octal numbers do; write 89"]),
    "negative": ("seed: -010\n", ["line 1: -010 begins with a zero, as octal numbers do; write -10"]),
    "zeros": ("seed: 00\n", ["line 1: 00 begins with a zero, as octal numbers do; write 0,"]),
    "with a point": ("lr: 00.5\n", ["line 1: 00.5 begins with a zero"]),
    "in a list of numbers": ("seeds: [1, 02]\n", ["line 1: 02 begins with a zero"]),
    "as a name": (
        "class_weights:\n  007: 1\n",
        ["line 2: 007 begins with a zero, as octal numbers do; write 7, or put"],
    ),
    "base 60": ("steps: 1:30\n", ["line 1: 1:30 would be a number of base 60"]),
    "both kinds": ("seed: 01\nlr: 1\nlr: 2\n", ["line 1: 01 begins", "line 3: lr is there twice"]),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_may_be_misread_is_refused_by_line(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        load_yaml(path)
    lines = str(caught.value).split("\n  ")
    assert len(lines) == len(expected)
    assert all(line.startswith(f"{path}: {start}") for line, start in zip(lines, expected, strict=True))


TAKEN = {
    "numbers": ("seed: 10\nlr: 0.5\nalpha: 0\n", {"seed": 10, "lr": 0.5, "alpha": 0}),
    "hexadecimal": ("seed: 0x10\n", {"seed": 16}),
    "texts in quotes": ("target: '010'\nsource: \"1:30\"\n", {"target": "010", "source": "1:30"}),
    "file names": ("target: 010.csv\noutput: 007/run\n", {"target": "010.csv", "output": "007/run"}),
    "times": ("output: 01-02\n", {"output": "01-02"}),
    "names that differ": ("class_weights: {a-b: 1, a_b: 2}\n", {"class_weights": {"a-b": 1, "a_b": 2}}),
    "the same name elsewhere": ("methods: {a: {lr: 1}, b: {lr: 2}}\n", {"methods": {"a": {"lr": 1}, "b": {"lr": 2}}}),
    "merged": (
        "x: &x {lr: 1, seed: 2}\ny:\n  <<: *x\n  lr: 3\n",
        {"x": {"lr": 1, "seed": 2}, "y": {"lr": 3, "seed": 2}},
    ),
    "an alias": ("x: &x [1, 2]\ny: *x\nz: *x\n", {"x": [1, 2], "y": [1, 2], "z": [1, 2]}),
    "byte order mark": ("\ufefflr: 1\n", {"lr": 1}),
}


@pytest.mark.parametrize(("text", "expected"), TAKEN.values(), ids=TAKEN)
def test_what_is_clear_is_taken(tmp_path: Path, text: str, expected: dict[str, object]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_yaml(path) == expected


@pytest.mark.parametrize(
    ("line", "with_hint"),
    [
        *((f"target: {value}", True) for value in ("no", "off", "2024", "1.5", "null", "2026-01-01", "#fff", "~")),
        *((f"class_weights: {value}", True) for value in ("{1: 2, 2: 1}", "{no: 1, yes: 2}", "{1.0: 2}")),
        *((f"lr: {value}", False) for value in ("no", "x")),
        ("target: [a, b]", False),
        ("class_weights: {a: x}", False),
    ],
)
def test_texts_that_yaml_takes_for_something_else_ask_for_quotes(tmp_path: Path, line: str, with_hint: bool) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{line}\n")
    with pytest.raises(ValueError, match=f"{line.partition(':')[0]}: expected ") as caught:
        read_yaml(path)
    assert str(caught.value).endswith("a text that YAML takes for something else is put into quotes") == with_hint
    assert "\n" not in str(caught.value)


def test_aliases_of_aliases_are_looked_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    path = tmp_path / "c.yaml"
    path.write_text("\n".join(lines))
    assert len(load_yaml(path)) == 30


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "expected lines of 'name: value', got NoneType"),
        (b"a: 1\n---\nb: 2\n", "not a YAML file"),
        (b"a: [1\n", "not a YAML file"),
        (b"target: \xff\n", "expected text in UTF-8"),
        (b"a: " + b"[" * 5000, "deeply nested|not a YAML file"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=expected) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
