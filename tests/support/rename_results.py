"""Rewrites docs/results/*.jsonl once: each run gets the settings and the key that it has under today's names.

    python tests/support/rename_results.py

A line records the settings that differed from the defaults of its day, and its key is a hash of all that affect the
result. Defaults have changed since, so the settings that a line records do not always reproduce its key. Three
candidates are tried, and the one whose hash is the key tells what the run was. Lines without a name of today
(``rectangle_probability`` between 0 and 1) are dropped. Nothing is written unless every line is understood.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from xmixup_fast.comparison.workers import _changed
from xmixup_fast.settings.fields import Settings
from xmixup_fast.settings.identity import run_hash, short_hash

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "results"

DEFAULTS = {
    **{"method": "xmixup", "epochs": 30, "lr": 0.01, "head_lr_multiplier": 10.0, "momentum": 0.9},
    **{"weight_decay": 1e-4, "alpha": 0.2, "fold": True, "lam_per": "sample", "mix_probability": 1.0},
    **{"rectangle_probability": 1.0, "source_weight": 1.0, "anchor": True, "l2sp_alpha": 0.01, "l2sp_beta": 0.01},
    **{"delta_alpha": 1.0, "bss_eta": 1e-3, "bss_k": 1, "rifle_periods": 2, "cotuning_weight": 2.3},
    **{"seqtrain_share": 0.5, "selection": "prediction", "similarity": "prediction", "top_k": 1, "top_images": 50},
    **{"decoder": "auto", "bad_files": "error", "flip": True, "test_fraction": 0.2},
}
"""The defaults of former settings that were hashed."""

NAMES = {
    "comparison": {
        "xmixup": "xcutmix-l2sp",
        "xmixup-random": "xcutmix-l2sp-random",
        "xmixup-blend": "xmixup",
        "xmixup-unanchored": "xcutmix",
        "unanchored-random": "xcutmix-random",
    },
    "ablation": {
        "unfolded": "xmixup-unfolded",
        "source-weight-3": "xmixup-source-weight-3",
        "alpha-1": "xmixup-alpha-1",
        "unmixed-end": "xmixup-unmixed-end",
        "rectangle": "xcutmix",
        "rectangle-random": "xcutmix-random",
        "rectangle-alpha-1": "xcutmix-alpha-1",
        "rectangle-alpha-half": "xcutmix-alpha-half",
        "rectangle-top-k-3": "xcutmix-top-k-3",
        "rectangle-unmixed-end": "xcutmix-unmixed-end",
    },
    "ablation-tuned": {
        "xmixup": "xcutmix",
        "anchored": "xcutmix-l2sp",
        "anchored-random": "xcutmix-l2sp-random",
        "top-k-5": "xcutmix-top-k-5",
        "any-class": "xcutmix-any-class",
    },
}
"""New names of rows in each file; a row that is not here keeps its name."""


def former_hash(given: dict[str, Any]) -> str:
    """The hash that a run with these settings had under the former rules."""
    values = {**DEFAULTS, **given}
    values.setdefault("resize", round(values["image_size"] * 8 / 7))
    if values["method"] != "xmixup":
        del values["rectangle_probability"]
    if values["method"] not in ("xmixup", "xcutmix"):
        del values["anchor"]
    return short_hash(json.dumps({name: value for name, value in values.items() if value}, sort_keys=True))


def candidates(recorded: dict[str, Any]) -> list[dict[str, Any]]:
    """What the run may have been: as recorded, a blend by the default of its day, or rectangles by that of another."""
    return [recorded, {**recorded, "rectangle_probability": 0.0}, {**recorded, "method": "xmixup"}]


def new_settings(former: dict[str, Any]) -> Settings | None:
    """The settings under today's names; None for a run that has none."""
    values = dict(former)
    method = values.pop("method", "xmixup")
    probability = values.pop("rectangle_probability", 1.0)
    anchored = values.pop("anchor", True) and method in ("xmixup", "xcutmix")
    if method == "xmixup" and 0 < probability < 1:
        return None
    if method == "xmixup" and probability == 1:
        method = "xcutmix"
    if method == "l2sp":
        method, anchored = "finetune", True
    return Settings(**values, method=method, regularizer="l2sp" if anchored else "none")


def renamed(line: dict[str, Any], names: dict[str, str], baselines: set[str], counts: Counter[str]) -> Any:
    """The line under today's names, or None. ``baselines``: keys of fine-tuning runs, beside which steps were timed."""
    timing = "relative_seconds" in line
    tried = candidates(line["settings"])
    # A timing's key hashes two keys: the baseline's and the run's own.
    prefixes = [f"{key} " for key in baselines] if timing else [""]
    hashes = [former_hash(former) for former in tried]
    matches = [
        (number, prefix)
        for number, own in enumerate(hashes)
        for prefix in prefixes
        if line["key"] == (short_hash(prefix + own) if timing else own)
    ]
    if not matches:
        raise ValueError(f"no settings are known that give the key {line['key']}")
    number, prefix = matches[0]
    former = tried[number]
    kind = "timing" if timing else "run"
    if not timing:
        counts[f"settings: {('as recorded', 'with rectangle_probability 0', 'with method xmixup')[number]}"] += 1
    settings = new_settings(former)
    if settings is None:
        counts[f"{kind} dropped"] += 1
        return None
    key = short_hash(prefix + run_hash(settings)) if timing else run_hash(settings)
    changed = f"{kind} with another key: {former.get('method', 'xmixup')}"
    counts[f"{kind} with its key" if key == line["key"] else changed] += 1
    return {**line, "method": names.get(line["method"], line["method"]), "key": key, "settings": _changed(settings)}


def main() -> None:
    """Rewrites all files, or none."""
    counts: Counter[str] = Counter()
    texts: dict[Path, str] = {}
    for name, names in NAMES.items():
        path = FOLDER / f"{name}.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        baselines = {line["key"] for line in lines if line["settings"].get("method") == "finetune"}
        new = [line for line in (renamed(line, names, baselines, counts) for line in lines) if line is not None]
        # Two runs that differed must differ still; a run that was tried again after an error has two lines.
        assert len({line["key"] for line in new}) == len({line["key"] for line in lines}) - len(lines) + len(new)
        texts[path] = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in new)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    for what, count in sorted(counts.items()):
        print(f"{count:4} {what}")


if __name__ == "__main__":
    main()
