"""The hub that tests ask in place of Hugging Face's: what the library, its file system and timm make of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import timm
from hub_server import HubServer, write_tiny_imagenet
from safetensors.torch import save_file


def printed(hub: HubServer, home: Path, code: str) -> str:
    """What a process that asks the hub prints; its error where it fails."""
    env = {**os.environ, **hub.env(home)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


LIST = """
from huggingface_hub import HfFileSystem, dataset_info
fs = HfFileSystem()
commit = dataset_info("zh-plus/tiny-imagenet").sha
start = f"datasets/zh-plus/tiny-imagenet@{commit}/data"
for path in fs.glob(f"{start}/*.parquet"):
    print(path.rpartition("/")[2], fs.info(path)["size"], fs.cat_file(path, 0, 4, cache_type="none"))
"""


def test_the_file_system_lists_and_reads_ranges(tmp_path: Path) -> None:
    folder = write_tiny_imagenet(tmp_path / "repo", count=1, classes=2)
    files = sorted((folder / "data").iterdir())
    with HubServer({"zh-plus/tiny-imagenet": folder}) as hub:
        shown = printed(hub, tmp_path / "home", LIST)
    assert shown.splitlines() == [f"{path.name} {path.stat().st_size} b'PAR1'" for path in files]
    assert hub.bytes == 8 and hub.count("GET /cdn/") == 2


def test_timm_downloads_weights(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", pretrained=False)
    (tmp_path / "repo").mkdir()
    save_file(model.state_dict(), tmp_path / "repo" / "model.safetensors")
    config = {"architecture": "test_resnet", "pretrained_cfg": {"num_classes": 1000}}
    (tmp_path / "repo" / "config.json").write_text(json.dumps(config))
    code = """
import timm
for name in ("test_resnet", "hf-hub:timm/test_resnet.r160_in1k"):
    print(timm.create_model(name, pretrained=True).state_dict()["fc.bias"].sum().item())
"""
    expected = str(model.state_dict()["fc.bias"].sum().item())
    with HubServer(models={"timm/test_resnet.r160_in1k": tmp_path / "repo"}) as hub:
        assert printed(hub, tmp_path / "home", code).split() == [expected] * 2
        assert hub.count("GET /cdn/models/timm/test_resnet.r160_in1k") == 1


REFUSED = """
import os
from huggingface_hub import errors, hf_hub_download
for name, token in (("missing", ""), ("gated", ""), ("gated", "other"), ("gated", "mine")):
    os.environ["HF_TOKEN"] = token
    try:
        print(open(hf_hub_download(f"made/{name}", "a.bin", repo_type="dataset")).read())
    except Exception as error:
        print(type(error).__name__)
"""


def test_what_is_gated_or_missing_is_refused_as_by_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"open")
    with HubServer({"made/gated": folder}, gated={"made/gated": "mine"}) as hub:
        shown = printed(hub, tmp_path / "home", REFUSED).splitlines()
    assert shown == ["RepositoryNotFoundError", "GatedRepoError", "GatedRepoError", "open"]
