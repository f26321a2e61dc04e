"""What is no weights file, or not a whole one, is named by its first bytes, with the way out."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from test_weights import CLASSES, NETWORK, assert_loaded, network
from torch import nn

from xmixup_fast.models.build import build
from xmixup_fast.runtime.tensor_files import write_tensors


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=f"weights: {path}: {message}") as caught:
        build(NETWORK, str(path), CLASSES)
    assert "\n" not in str(caught.value)


def onnx_model() -> bytes:
    graph = onnx.helper.make_graph([], "g", [], [])
    return bytes(onnx.helper.make_model(graph, producer_name="pytorch").SerializeToString())


def archive(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr(name, "x")
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        opened.addfile(tarfile.TarInfo("w.pth"))
    return buffer.getvalue()


CONTENTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is empty; copy or download it again"),
    "text": (b"hello", "it is a text, which holds no weights"),
    "umlauts": ("Gewichte für Ümläute".encode(), "it is a text"),
    "web page": (b"\n<!DOCTYPE html><html>", "it is a web page; download the file itself"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "it is a pointer of Git LFS; .*git lfs pull"),
    "ONNX": (onnx_model(), "it is an ONNX file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "it is an HDF5 file"),
    "gzip": (gzip.compress(b"x"), "it is compressed; unpack it"),
    "tar": (tar(), "it is a tar archive; unpack it"),
    "zip": (archive("w.pth"), "it is a ZIP archive; unpack it"),
    "npz": (archive("w.npy"), r"it is an \.npz file of NumPy; give it this suffix"),
}


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "bin"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_other_files_are_named_whatever_their_suffix(tmp_path: Path, kind: str, suffix: str) -> None:
    content, message = CONTENTS[kind]
    (tmp_path / f"w.{suffix}").write_bytes(content)
    refused(tmp_path / f"w.{suffix}", f"cannot be read: {message}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_programs_of_torch_are_named(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    torch.jit.save(torch.jit.trace(model, torch.ones(1, 2)), tmp_path / "w.pt")
    refused(tmp_path / "w.pt", r"cannot be read: it is a TorchScript program; .*torch\.jit\.load\(\"w\.pt\"\)")
    torch.export.save(torch.export.export(model, (torch.ones(1, 2),)), tmp_path / "w.pt2")
    refused(tmp_path / "w.pt2", r"cannot be read: it is an exported program .*torch\.export\.load\(\"w\.pt2\"\)")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("form", ["zip", "former", "safetensors"])
def test_files_that_are_cut_short_are_named(tmp_path: Path, form: str, share: float) -> None:
    state, path = network(1).state_dict(), tmp_path / "w"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path, r".*it is cut short; copy or download it again")


@pytest.mark.parametrize("suffix", ["bin", "pth", "ckpt", "safetensors"])
def test_safetensors_and_torchs_files_are_read_whatever_their_suffix(tmp_path: Path, suffix: str) -> None:
    model, path = network(1), tmp_path / f"w.{suffix}"
    for write in (save_file, torch.save):
        write(model.state_dict(), path)  # type: ignore[operator]
        assert_loaded(path, model)


def test_a_runs_checkpoint_leads_to_the_run(tmp_path: Path) -> None:
    metadata = {"format": "x", "run": "1", "step": "2", "notes": "{}"}
    path = tmp_path / "run/checkpoints/step-000000002.safetensors"
    path.parent.mkdir(parents=True)
    write_tensors(path, {"network.w": torch.ones(1)}, metadata)
    refused(
        path,
        f"is a checkpoint that does not name its classes; expected the run folder, --weights {tmp_path}/run, "
        "which holds model.safetensors",
    )


@pytest.mark.parametrize("names", [["student", "teacher"], ["online", "target"], ["generator", "critic", "other"]])
@pytest.mark.parametrize("under", [(), ("model",)])
def test_several_state_dicts_are_a_choice_that_is_named(tmp_path: Path, names: list[str], under: Any) -> None:
    checkpoint: Any = {name: {"w": torch.ones(1)} for name in names} | {"epoch": 3}
    for level in under:
        checkpoint = {level: checkpoint}
    torch.save(checkpoint, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", f"expected one state dict, got {len(names)}: {', '.join(names)}; .*torch.save")
    with pytest.raises(ValueError, match="such as") as caught:
        build(NETWORK, str(tmp_path / "w.pth"), CLASSES)
    command = str(caught.value).rpartition(": ")[2].replace('"w.pth"', repr(str(tmp_path / "w.pth")))
    exec(command.replace(f'"{names[-1]}.pth"', repr(str(tmp_path / "one.pth"))), {"torch": torch})
    assert torch.load(tmp_path / "one.pth").keys() == {"w"}


def test_one_array_of_numpy_is_no_weights_file(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"cannot load it into test_vit \(it is one array; expected the \.npz"):
        build("test_vit", str(tmp_path / "w.npy"), CLASSES)
