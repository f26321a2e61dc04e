"""Fitting weights to a network: what may be missing or left over, averaged weights, and JAX's classifiers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_weights import CLASSES, NETWORK, State, assert_loaded, loaded, network
from torch import nn
from torch.optim.swa_utils import AveragedModel

from xmixup_fast.models.build import build
from xmixup_fast.models.fitting import load_numpy

# --- arrays of JAX ---


def arrays_of(model: Any) -> dict[str, NDArray[Any]]:
    """A VisionTransformer's weights under their names in JAX, without a classifier."""
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    dim, heads = model.embed_dim, model.blocks[0].attn.num_heads
    arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
    }
    for i in range(len(model.blocks)):
        jax, timms = f"Transformer/encoderblock_{i}/", f"blocks.{i}."
        for ours, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{jax}{theirs}/scale"] = state[f"{timms}{ours}.weight"]
            arrays[f"{jax}{theirs}/bias"] = state[f"{timms}{ours}.bias"]
        attention = f"{jax}MultiHeadDotProductAttention_1/"
        for part, name in enumerate(("query", "key", "value")):
            weight, bias = (
                state[f"{timms}attn.qkv.{kind}"][part * dim : (part + 1) * dim] for kind in ("weight", "bias")
            )
            arrays[f"{attention}{name}/kernel"] = weight.T.reshape(dim, heads, -1)
            arrays[f"{attention}{name}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}out/kernel"] = state[f"{timms}attn.proj.weight"].T.reshape(heads, -1, dim)
        arrays[f"{attention}out/bias"] = state[f"{timms}attn.proj.bias"]
        for r in range(2):
            arrays[f"{jax}MlpBlock_3/Dense_{r}/kernel"] = state[f"{timms}mlp.fc{r + 1}.weight"].T
            arrays[f"{jax}MlpBlock_3/Dense_{r}/bias"] = state[f"{timms}mlp.fc{r + 1}.bias"]
    return arrays


@pytest.fixture(scope="module")
def vit() -> dict[str, NDArray[Any]]:
    torch.manual_seed(5)
    return arrays_of(timm.create_model("vit_tiny_patch16_224", num_classes=0))


@pytest.mark.parametrize("rows", [None, 1, 10, 1000, 21843])
def test_a_numpy_files_classifier_is_the_files_or_none(tmp_path: Path, rows: int | None, vit: Any) -> None:
    arrays = dict(vit)
    if rows is not None:
        arrays["head/kernel"] = np.random.default_rng(0).standard_normal((192, rows), np.float32)
        arrays["head/bias"] = np.arange(rows, dtype=np.float32)
    np.savez(tmp_path / "w.npz", **arrays)
    said: list[str] = []
    made = build("vit_tiny_patch16_224", str(tmp_path / "w.npz"), CLASSES, keep_classifier=True, log=said.append)
    np.testing.assert_array_equal(made.body.cls_token.detach().numpy(), vit["cls"])
    assert all(parameter.isfinite().all() for parameter in made.parameters())
    assert ("no classifier is in it" in said[0]) == (rows is None)
    assert ("taken for ImageNet's classes" in said[0]) == (rows in (1000, 21843))
    assert bool(made.no_classifier) == (rows is None) == (made.source_head is None)
    if made.source_head is not None:
        np.testing.assert_array_equal(made.source_head.weight.detach().numpy(), arrays["head/kernel"].T)
        np.testing.assert_array_equal(made.source_head.bias.detach().numpy(), arrays["head/bias"])


@pytest.mark.parametrize("rows", [None, 7])
def test_convolutional_networks_of_jax_likewise(tmp_path: Path, rows: int | None) -> None:
    body = timm.models.ResNetV2(layers=[1], channels=[128], stem_chs=32, num_classes=5, stem_type="fixed").eval()
    arrays = {"root_block/standardized_conv2d/kernel": body.stem.conv.weight}
    arrays |= {"group_norm/gamma": body.norm.weight, "group_norm/beta": body.norm.bias}
    block, unit = body.stages[0].blocks[0], "block1/unit01/"
    for part, conv, norm in zip(
        "abc", (block.conv1, block.conv2, block.conv3), (block.norm1, block.norm2, block.norm3), strict=True
    ):
        arrays[f"{unit}{part}/standardized_conv2d/kernel"] = conv.weight
        arrays |= {f"{unit}{part}/group_norm/gamma": norm.weight, f"{unit}{part}/group_norm/beta": norm.bias}
    arrays[f"{unit}a/proj/standardized_conv2d/kernel"] = block.downsample.conv.weight
    if rows is not None:
        arrays |= {"head/conv2d/kernel": torch.randn(rows, 128, 1, 1), "head/conv2d/bias": torch.randn(rows)}
    saved = {f"resnet/{name}": tensor.detach().numpy() for name, tensor in arrays.items()}
    saved = {name: array.transpose(2, 3, 1, 0) if array.ndim == 4 else array for name, array in saved.items()}
    np.savez(tmp_path / "w.npz", **saved)
    assert load_numpy(body, tmp_path / "w.npz", "bit").has_classifier == (rows is not None)
    if rows is not None:
        assert torch.equal(body.head.fc.bias, arrays["head/conv2d/bias"])


# --- what may be missing, and what is left out ---


@settings(max_examples=10)
@given(data=st.data())
def test_counters_of_batch_normalisation_may_be_missing(tmp_path_factory: Any, data: st.DataObject) -> None:
    model = network(1)
    counters = [name for name in model.state_dict() if name.endswith("num_batches_tracked")]
    missing = data.draw(st.sets(st.sampled_from(counters), min_size=1)) if data.draw(st.booleans()) else counters
    prefix = data.draw(st.sampled_from(["", "module.", "net."]))
    path = tmp_path_factory.mktemp("counters") / "w.pth"
    torch.save({prefix + name: t for name, t in model.state_dict().items() if name not in missing}, path)
    assert_loaded(path, model)


EXTRAS: dict[str, State] = {
    "n_averaged": {"n_averaged": torch.tensor(5)},
    "thop": {f"{place}{name}": torch.zeros(1) for place in ("", "layer1.0.") for name in ("total_ops", "total_params")},
    "temperature": {"logit_scale": torch.tensor(4.6)},
    "counter": {"layer1.0.calls": torch.tensor(3)},
}
PROJECTORS: dict[str, State] = {
    "MoCo v2": {"fc.0.weight": torch.ones(8, 8), "fc.2.weight": torch.ones(8, 8)},
    "projector": {"projector.0.weight": torch.ones(8, 8), "predictor.bn.weight": torch.ones(8), "queue": torch.ones(2)},
    "head": {"head.mlp.0.weight": torch.ones(8, 8), "prototypes.weight": torch.ones(3, 8)},
}


@pytest.mark.parametrize("name", [*EXTRAS, *PROJECTORS])
def test_what_the_backbone_does_not_need_is_left_out_and_said(tmp_path: Path, name: str) -> None:
    model = network(1)
    extra = (EXTRAS | PROJECTORS)[name]
    kept = {n: t for n, t in model.state_dict().items() if name in EXTRAS or not n.startswith("fc.")}
    torch.save({"state_dict": kept | extra}, tmp_path / "w.pth")
    said = assert_loaded(tmp_path / "w.pth", model)
    assert f"tensors that {NETWORK} has no place for are left out, {len(extra)}: {next(iter(extra))}" in said
    assert ("no classifier is in it" in said) == (name in PROJECTORS)


@pytest.mark.parametrize(
    ("extra", "with_classifier"),
    [
        ({"layer1.0.gain": torch.ones(1)}, True),
        ({"layer1.0.conv9.weight": torch.ones(3)}, False),
        ({"norm_pre.weight": torch.ones(3)}, False),
        ({"fc.2.weight": torch.ones(3, 3)}, True),
    ],
)
def test_what_tells_of_another_network_is_not_left_out(tmp_path: Path, extra: State, with_classifier: bool) -> None:
    state = {name: t for name, t in network(1).state_dict().items() if with_classifier or not name.startswith("fc.")}
    torch.save(state | extra, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=f"1 unexpected: {next(iter(extra))}"):
        build(NETWORK, str(tmp_path / "w.pth"), CLASSES)


# --- averaged weights ---


def two() -> tuple[nn.Module, nn.Module]:
    """A network, and another one in place of its average."""
    return network(1), network(2)


@pytest.mark.parametrize(
    "key", ["ema", "ema_state_dict", "model_ema", "net_ema", "swa_model", "averaged_weights", "EMA"]
)
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "decay": 0.99}])
def test_averaged_weights_are_taken_by_name(tmp_path: Path, key: str, wrap: Any) -> None:
    model, average = two()
    torch.save({"model": model.state_dict(), "ema_decay": 0.9, key: wrap(average.state_dict())}, tmp_path / "w.pth")
    assert f"w.pth: {key}" in assert_loaded(tmp_path / "w.pth", average)


@pytest.mark.parametrize("prefix", ["ema_model.", "ema_model.module.", "ema.", "model_ema.module.", "swa."])
def test_averaged_weights_are_taken_by_prefix(tmp_path: Path, prefix: str) -> None:
    model, average = two()
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {prefix + name: tensor for name, tensor in average.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.ckpt")
    said = assert_loaded(tmp_path / "w.ckpt", average)
    assert f"averaged weights are taken: the names' prefix {prefix} comes off; tensors without it are left out" in said


@pytest.mark.parametrize("key", ["model_ema", None])
def test_torchs_averaged_model_is_read(tmp_path: Path, key: str | None) -> None:
    model, average = two()
    state = AveragedModel(copy.deepcopy(average)).state_dict()
    torch.save({"model": model.state_dict(), key: state} if key else state, tmp_path / "w.pth")
    assert "left out, 1: n_averaged" in assert_loaded(tmp_path / "w.pth", average)


@pytest.mark.parametrize("value", [None, {}, {"shadow_params": [torch.ones(2)]}])
def test_averages_that_are_not_read_are_named(tmp_path: Path, value: Any) -> None:
    model, _ = two()
    torch.save({"model": model.state_dict(), "ema": value}, tmp_path / "w.pth")
    said = assert_loaded(tmp_path / "w.pth", model)
    assert ("ema left out, as no state dict is in it" in said) == bool(value)


@pytest.mark.parametrize("key", ["weights", "state_dict", "params"])
def test_model_may_name_the_network(tmp_path: Path, key: str) -> None:
    model, _ = two()
    torch.save({"model": NETWORK, key: model.state_dict(), "epoch": 2}, tmp_path / "w.pth")
    assert f"{key} of epoch 2 ({NETWORK})" in assert_loaded(tmp_path / "w.pth", model)
    torch.save({"model": "resnet18", key: {"w": torch.ones(2)}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"\(it is of resnet18\) does not fit test_resnet"):
        loaded(tmp_path / "w.pth")
