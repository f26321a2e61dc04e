"""Small runs of every method whose losses, weights and summaries are recorded, to show that a change moved no number.

python tests/support/record_runs.py
    makes all runs and compares them with tests/support/recorded_runs.json; exit status 1 where one differs

python tests/support/record_runs.py --record
    writes that file anew, which is right only where numbers are meant to change

Bits depend on the processor and on torch: the file says which ones they were recorded with, and figures of others
differ. So this is a tool for whoever restructures the code, and no test: it compares before and after on one machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from made import SOURCE, TARGET, write_folder
from safetensors.torch import load_file

import xmixup_fast
from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save

RECORDED = Path(__file__).with_name("recorded_runs.json")
STEPS = 8
METHODS: dict[str, dict[str, Any]] = {
    "fine-tuning": {"method": "finetune"},
    "fine-tuning, L2-SP's penalties": {"method": "finetune", "regularizer": "l2sp"},
    "DELTA": {"method": "delta"},
    "BSS": {"method": "bss"},
    "RIFLE": {"method": "rifle"},
    "mixup": {"method": "mixup"},
    "CutMix": {"method": "cutmix"},
    "Co-Tuning": {"method": "cotuning"},
    "co-training": {"method": "cotrain"},
    "sequential training": {"method": "seqtrain"},
    "blend": {"method": "xmixup"},
    "blend, L2-SP's penalties": {"method": "xmixup", "regularizer": "l2sp"},
    "boxes": {"method": "xcutmix"},
    "boxes, L2-SP's penalties": {"method": "xcutmix", "regularizer": "l2sp"},
}
"""By what they do, in the names of settings that this version has."""
VARIANTS: dict[str, dict[str, Any]] = {
    "resident": {"storage": "resident"},
    "streamed": {"storage": "stream"},
    "resumed": {},
    "two processes": {},
    "bf16": {"amp": "bf16"},
    "micro-batches": {"grad_accum_steps": 2},
}
OTHERS: dict[str, dict[str, Any]] = {
    "random classes": {**METHODS["blend"], "selection": "random", "top_k": 2},
    "similar features": {**METHODS["boxes"], "selection": "feature", "top_k": 2},
    "one class each": {**METHODS["blend"], "selection": "assignment"},
    "similar images": {**METHODS["blend"], "selection": "sample", "top_images": 5},
    "partly unmixed": {**METHODS["boxes"], "mix_probability": 0.5, "unmixed_share": 0.25},
    "one weight a batch": {**METHODS["CutMix"], "lam_per": "batch", "alpha": 1.0, "fold": False},
    "average, AdamW": {**METHODS["blend"], "ema_decay": 0.9, "optimizer": "adamw", "lr": 1e-4, "clip_grad": 0.5},
    "best of all": {
        **METHODS["blend"],
        "patience": 9,
        "keep": "best",
        "epochs": 3,
        "steps": None,
        "label_smoothing": 0.1,
    },
}
LEFT_OUT = (
    *("method", "target", "source", "weights", "versions", "data"),
    *("best_val_accuracy", "last_val_accuracy", "calibration"),
)
"""Of a summary: names, what tells of the machine, and what follows from losses and weights."""


def settings(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    common = {"target": str(data / "target"), "source": str(data / "source"), "model": "test_resnet", "steps": STEPS}
    common |= {"weights": str(data / "weights.safetensors"), "batch_size": 8, "image_size": 32, "device": "cpu"}
    common |= {
        "keep": "last",
        "split_by": "order",
        "report": False,
        "threads": 1,
        "checkpoint_steps": STEPS // 2,
        "checkpoints_kept": 9,
    }
    return {**common, "cache": str(data / "cache"), "seed": 3, "output": str(output), **changes}


def figures(folder: Path) -> dict[str, Any]:
    """What is compared of a run folder."""
    weights = hashlib.sha256()
    for name, tensor in sorted(load_file(folder / "model.safetensors").items()):
        weights.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        weights.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    kept = {name: value for name, value in summary.items() if name not in LEFT_OUT and "seconds" not in name}
    losses = [[line["step"], line["train_loss"], line["val_accuracy"]] for line in lines]
    return {"weights": weights.hexdigest(), "losses": losses, "summary": kept}


def made(data: Path) -> None:
    write_folder(data / "target", TARGET, 10)
    write_folder(data / "source", SOURCE, 4)
    save(build("test_resnet", "none", sorted(SOURCE)), data / "weights.safetensors", image_size=32)


def resumed(data: Path, folder: Path, whole: Path, changes: dict[str, Any]) -> None:
    """A run that goes on from the middle of a whole one."""
    shutil.copytree(whole, folder)
    (folder / "checkpoints" / max(os.listdir(folder / "checkpoints"))).unlink()
    for name in ("summary.json", "model.safetensors", "evaluation.json"):
        (folder / name).unlink()
    xmixup_fast.fit(**settings(data, folder, **changes, resume="auto"))


def all_runs(data: Path) -> dict[str, dict[str, Any]]:
    found = {}
    two = {name: settings(data, data / f"two-{name}", **changes) for name, changes in METHODS.items()}
    (data / "two.json").write_text(json.dumps(list(two.values())))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, __file__, "--fit", str(data / "two.json")], check=True, env=environment)
    for method, changes in METHODS.items():
        for variant, more in VARIANTS.items():
            folder = data / f"{method}-{variant}"
            if variant == "resumed":
                resumed(data, folder, data / f"{method}-resident", changes)
            elif variant == "two processes":
                folder = data / f"two-{method}"
            else:
                xmixup_fast.fit(**settings(data, folder, **changes, **more))
            found[f"{method}: {variant}"] = figures(folder)
    for name, changes in OTHERS.items():
        xmixup_fast.fit(**settings(data, data / name, **changes))
        found[name] = figures(data / name)
    return found


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--fit"]:
        for values in json.loads(Path(arguments[1]).read_text()):
            xmixup_fast.fit(**values)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        made(Path(folder))
        found = all_runs(Path(folder))
    machine = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    machine |= {"processor": platform.machine(), "onednn": torch.backends.mkldnn.is_available()}
    if arguments == ["--record"]:
        RECORDED.write_text(json.dumps({"machine": machine, "runs": found}, indent=1) + "\n")
        print(f"{len(found)} runs recorded in {RECORDED}")
        return 0
    recorded = json.loads(RECORDED.read_text())
    if recorded["machine"] != machine:
        print(f"recorded on {recorded['machine']}, compared on {machine}: figures may differ")
    differing = [
        name for name in recorded["runs"].keys() | found.keys() if recorded["runs"].get(name) != found.get(name)
    ]
    for name in sorted(differing):
        print(f"{name}: recorded {recorded['runs'].get(name)}\n    now {found.get(name)}")
    print(f"{len(found) - len(differing)} of {len(recorded['runs'])} runs are as recorded")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
