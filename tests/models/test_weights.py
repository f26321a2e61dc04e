"""Weights files: every form that timm reads, and others that people have; what is refused, and what is said."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import Tensor, nn

from xmixup_fast.models.build import build
from xmixup_fast.models.trained import save

NETWORK = "test_resnet"
CLASSES = ["a", "b"]

State = dict[str, Tensor]


def network(seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(NETWORK, **options)
    return model


def loaded(path: Path, model: str = NETWORK, **options: Any) -> tuple[State, str]:
    """The backbone's tensors after loading, and what was said."""
    said: list[str] = []
    body = build(model, str(path), CLASSES, log=said.append, **options).body
    return {name: tensor for name, tensor in body.state_dict().items() if not name.startswith("fc.")}, "\n".join(said)


def assert_loaded(path: Path, model: nn.Module) -> str:
    """Asserts that the backbone is that of ``model``. Returns what was said."""
    state, said = loaded(path)
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    return said


def as_timm_loads(path: Path) -> nn.Module:
    """timm's own network with these weights."""
    model: nn.Module = timm.create_model(NETWORK, checkpoint_path=str(path))
    return model


@pytest.mark.parametrize("with_ema", [False, True])
def test_checkpoints_of_timms_trainer_are_read_as_timm_does(tmp_path: Path, with_ema: bool) -> None:
    model, ema = network(1), ModelEmaV3(network(2)) if with_ema else None
    saver = CheckpointSaver(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        argparse.Namespace(model=NETWORK, lr=0.1, opt_betas=None, class_map=[]),
        model_ema=ema,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(3, metric=71.5)
    said = assert_loaded(tmp_path / "last.pth.tar", as_timm_loads(tmp_path / "last.pth.tar"))
    key = "state_dict_ema" if with_ema else "state_dict"
    assert f"last.pth.tar: {key} of epoch 3 (test_resnet); its 1000 outputs are taken for ImageNet's classes" in said
    assert_loaded(tmp_path / "last.pth.tar", ema.module if ema else model)


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "compile": torch.compile,  # type: ignore[dict-item]
    "compile, then parallel": lambda model: nn.DataParallel(torch.compile(model)),  # type: ignore[arg-type]
    "parallel, then compile": lambda model: torch.compile(nn.DataParallel(model)),  # type: ignore[return-value]
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_wrapped_modules_are_read_as_timm_does(tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = network(1)
    torch.save(wrap(model).state_dict(), tmp_path / "w.pth")
    assert_loaded(tmp_path / "w.pth", model)
    assert_loaded(tmp_path / "w.pth", as_timm_loads(tmp_path / "w.pth"))


@settings(max_examples=15)
@given(
    levels=st.lists(st.sampled_from(["state_dict", "model"]), max_size=3),
    prefix=st.sampled_from(["", "module.", "model.", "backbone.", "encoder.", "net.model.", "module.backbone."]),
    more=st.booleans(),
    classifier=st.sampled_from([None, 3, 1000]),
)
def test_a_state_dict_is_found_under_levels_and_prefixes(
    tmp_path_factory: pytest.TempPathFactory, levels: list[str], prefix: str, more: bool, classifier: int | None
) -> None:
    model = network(1, num_classes=classifier or 5)
    state = model.state_dict()
    if classifier is None:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    checkpoint: Any = {prefix + name: tensor for name, tensor in state.items()}
    if more and prefix not in ("", "module."):
        checkpoint["loss.weight"] = torch.ones(3)
    for level in reversed(levels):
        checkpoint = {level: checkpoint, "epoch": 7, "rng": [1, 2]}
    path = tmp_path_factory.mktemp("levels") / "w.pth"
    torch.save(checkpoint, path)
    said = assert_loaded(path, model)
    assert ("of epoch 7" in said) == bool(levels) and ".".join(levels) in said
    assert ("tensors without it are left out, 1: loss.weight" in said) == ("loss.weight" in str(checkpoint))


def test_lightnings_checkpoints_and_those_of_tutorials_are_read(tmp_path: Path) -> None:
    model = network(1)
    lightning = {"state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()}}
    facts = {"epoch": 4, "global_step": 100, "pytorch-lightning_version": "2.6.6", "hyper_parameters": {"lr": 0.1}}
    torch.save(lightning | facts, tmp_path / "epoch=4.ckpt")
    said = assert_loaded(tmp_path / "epoch=4.ckpt", model)
    assert "state_dict of epoch 4; the names' prefix model. comes off" in said
    optimizer = torch.optim.AdamW(model.parameters())
    tutorial = {"epoch": 2, "model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save(tutorial, tmp_path / "tutorial.pth")
    assert "model_state_dict of epoch 2" in assert_loaded(tmp_path / "tutorial.pth", model)


def test_files_of_former_formats_and_of_16_bits_are_read(tmp_path: Path) -> None:
    model = network(1)
    torch.save(model.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_loaded(tmp_path / "old.pth", model)
    save_file(model.half().state_dict(), tmp_path / "w.safetensors")
    state, _ = loaded(tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, model.state_dict()[name].to(tensor.dtype)) for name, tensor in state.items())


SCALARS = [
    *(np.dtype(code).type(1) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"),
    argparse.Namespace(lr=0.1, best=np.float64(3)),
]


@pytest.mark.parametrize("value", SCALARS, ids=lambda value: type(value).__name__)
def test_arguments_and_numpy_scalars_are_allowed(tmp_path: Path, value: Any) -> None:
    model = network(1)
    torch.save({"state_dict": model.state_dict(), "best": value, "arch": NETWORK}, tmp_path / "w.pth")
    assert "state_dict (test_resnet)" in assert_loaded(tmp_path / "w.pth", model)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def evil_forms(evil: Evil) -> dict[str, Callable[[Path], object]]:
    state = {"fc.weight": torch.ones(2)}
    return {
        "beside": lambda path: torch.save({"state_dict": state, "x": evil}, path),
        "within": lambda path: torch.save({"state_dict": state | {"x": evil}}, path),
        "alone": lambda path: torch.save(evil, path),
        "former format": lambda path: torch.save({"x": evil}, path, _use_new_zipfile_serialization=False),
        "pickle": lambda path: path.write_bytes(pickle.dumps({"model": evil}, protocol=2)),
        "scalar": lambda path: torch.save({"state_dict": state, "x": np.array([evil], dtype=object)}, path),
    }


@pytest.mark.parametrize("form", evil_forms(Evil(Path())))
def test_code_in_a_checkpoint_is_refused_by_name_and_never_run(tmp_path: Path, form: str) -> None:
    evil_forms(Evil(tmp_path / "ran"))[form](tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: cannot be read \(.*; save the state dict alone") as caught:
        build(NETWORK, str(tmp_path / "w.pth"), CLASSES)
    assert not (tmp_path / "ran").exists()
    assert "posix.system" in str(caught.value) or form == "scalar"
    assert "\n" not in str(caught.value)


def test_a_pickled_module_is_refused_by_the_names_of_its_classes(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"it holds .*timm.*, with which loading could run code; nothing was run"):
        build(NETWORK, str(tmp_path / "whole.pt"), CLASSES)


NO_STATE = {
    "numbers": ([1, 2], "got list"),
    "nothing": ({}, "got a dictionary of nothing"),
    "a number": ({"model": 3}, "got int under model"),
    "values": ({"state_dict": {"w": torch.ones(1), "v": 3}}, "got a dictionary of w, v under state_dict"),
    "deep": (
        {"model": {"model": {"model": {"model": {"w": torch.ones(1)}}}}},
        "got a dictionary of model under model.model.model",
    ),
}


@pytest.mark.parametrize(("checkpoint", "message"), NO_STATE.values(), ids=NO_STATE)
def test_a_file_without_one_state_dict_is_refused(tmp_path: Path, checkpoint: Any, message: str) -> None:
    torch.save(checkpoint, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"w\.pth: expected a state dict, .*; {message}; save the state dict alone"):
        build(NETWORK, str(tmp_path / "w.pth"), CLASSES)


def test_weights_that_do_not_fit_say_which(tmp_path: Path) -> None:
    state = network().state_dict()
    state["extra.weight"] = state.pop("bn1.weight")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"1 missing: bn1.weight; 1 unexpected: extra.weight"):
        build(NETWORK, str(tmp_path / "w.pth"), CLASSES)
    state["bn1.weight"] = state.pop("extra.weight")[:3]
    torch.save({"state_dict": state, "arch": "resnet18"}, tmp_path / "w.pth")
    message = (
        r"w\.pth \(it is of resnet18\) does not fit test_resnet: 1 of another shape: bn1.weight \[\d+\], not \[3\]"
    )
    with pytest.raises(ValueError, match=message):
        build(NETWORK, str(tmp_path / "w.pth"), CLASSES)


NO_NUMBERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "quantised": (lambda weight: (100 * weight).to(torch.int8), "expected floating-point numbers, got int8; take"),
    "complex": (lambda weight: weight.to(torch.complex64), "expected floating-point numbers, got complex64"),
    "sparse": (Tensor.to_sparse, "expected a tensor of numbers, got torch.sparse_coo"),
    "meta": (lambda weight: weight.to("meta"), "expected a tensor of numbers, got one on the device meta"),
    "nan": (lambda weight: weight * torch.nan, "holds numbers that are not finite"),
    "infinity": (lambda weight: weight / 0, "holds numbers that are not finite"),
    "too large for float32": (lambda weight: weight.double() * 1e300, "holds numbers that are not finite"),
}


@pytest.mark.parametrize("where", ["conv1.0.weight", "fc.weight"])
@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_tensors_that_are_no_weights_are_named(tmp_path: Path, kind: str, where: str) -> None:
    change, message = NO_NUMBERS[kind]
    state = network().state_dict()
    torch.save(state | {where: change(state[where])}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"weights: \S*w\.pth: {where}:? {message}"):
        build(NETWORK, str(tmp_path / "w.pth"), CLASSES)


@pytest.mark.parametrize("weight", [torch.tensor(1.0), torch.zeros(0, 96)])
def test_a_classifier_without_outputs_is_refused(tmp_path: Path, weight: Tensor) -> None:
    torch.save(network().state_dict() | {"fc.weight": weight, "fc.bias": torch.zeros(0)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: expected a classifier with a row for each output, got one without"):
        build(NETWORK, str(tmp_path / "w.pth"), CLASSES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("classes", value) for value in ("a,b", "[0, 1]", '["a", "a"]', '{"a": 0}', '"ab"')),
        *((name, value) for name in ("mean", "std") for value in ("0.5", "[0.5]", '["a", "b", "c"]', "")),
        *(("image_size", value) for value in ("big", "0", "1.5", "[32, 32]")),
    ],
)
def test_metadata_that_say_something_else_are_named(tmp_path: Path, name: str, value: str) -> None:
    save_file(network(num_classes=2).state_dict(), tmp_path / "w.safetensors", {name: value})
    with pytest.raises(ValueError, match=rf"w\.safetensors: metadata: {name}: expected a .*, got ") as caught:
        build(NETWORK, str(tmp_path / "w.safetensors"), CLASSES)
    assert str(caught.value).endswith(f", got {value}")


def test_names_of_the_networks_own_code_are_converted_as_timm_does(tmp_path: Path) -> None:
    """Meta's code for ConvNeXt names the stages' parts otherwise."""
    model = timm.create_model("test_convnext")
    own = {}
    for name, tensor in model.state_dict().items():
        for timms, metas in (
            ("head.fc.", "head."),
            ("head.norm.", "norm."),
            ("stem.", "downsample_layers.0."),
            (".blocks.", "."),
            (".mlp.fc1.", ".pwconv1."),
            (".mlp.fc2.", ".pwconv2."),
            (".conv_dw.", ".dwconv."),
        ):
            name = name.replace(timms, metas)
        if name.startswith("stages.") and ".downsample." in name:
            name = name.replace("stages.", "downsample_layers.").replace(".downsample.", ".")
        own[name] = tensor
    torch.save({"model": own}, tmp_path / "w.pth")
    body = build("test_convnext", str(tmp_path / "w.pth"), CLASSES).body.state_dict()
    assert all(torch.equal(body[name], tensor) for name, tensor in model.state_dict().items() if "head.fc" not in name)


def test_numpy_files_go_to_timms_own_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    with pytest.raises(ValueError, match=r"timm reads NumPy files for some networks, and test_resnet is none of them"):
        build(NETWORK, str(tmp_path / "w.npz"), CLASSES)
    with pytest.raises(ValueError, match=r"w\.npz: timm cannot load it into test_vit \("):
        build("test_vit", str(tmp_path / "w.npz"), CLASSES)
    with pytest.raises(FileNotFoundError, match=r"absent\.npz: no such file"):
        build("test_vit", str(tmp_path / "absent.npz"), CLASSES)
    paths = []
    monkeypatch.setattr(timm.models.VisionTransformer, "load_pretrained", lambda self, path: paths.append(path))
    said: list[str] = []
    build("test_vit", str(tmp_path / "w.npz"), CLASSES, log=said.append)
    assert paths == [str(tmp_path / "w.npz")] and "w.npz: arrays of JAX" in said[0]


# --- runs as weights ---


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["cat", "dog", "fox"], "the target head is kept, as it has the same 3 classes"),
        (["fox", "cat", "dog"], "the target head is kept, as it has the same 3 classes"),
        (["ant", "cat", "fox"], "the target head keeps 2 of 3 classes; new: ant"),
        (["ant", "bee"], "the target head is new"),
    ],
)
@pytest.mark.parametrize("model", ["test_resnet", "dla60x_c", "repvit_m0_9"])
def test_a_trained_networks_classes_keep_their_rows(tmp_path: Path, classes: list[str], said: str, model: str) -> None:
    first = build(model, "none", ["cat", "dog", "fox"], seed=1).eval()
    save(first, tmp_path / "model.safetensors", image_size=32)
    lines: list[str] = []
    second = build(model, str(tmp_path), classes, log=lines.append, seed=2).eval()
    assert lines == [f"weights: {tmp_path}: weights of {model}; {said}"]
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before, after = first(images), second(images)
    for name in {*classes} & {*first.classes}:
        torch.testing.assert_close(after[:, classes.index(name)], before[:, first.classes.index(name)])
    if "cat" in classes:  # a new class has the mean of the former logits, and outvotes no known one
        for name in {*classes} - {*first.classes}:
            torch.testing.assert_close(after[:, classes.index(name)], before.mean(1))
    pretrained, new = second.parameter_groups()
    assert sorted(map(id, pretrained + new)) == sorted(map(id, second.parameters()))
    assert bool(new) == (set(classes) != set(first.classes))


def test_classes_that_are_only_guessed_keep_no_row(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "w.pth")
    known = build(NETWORK, str(tmp_path / "w.pth"), ["n01440764"], source_classes=["n01440764"])
    assert known.target_matched is not None and not known.target_matched.any()
    assert known.source_matched is not None and known.source_matched.all()


def test_a_folder_without_a_trained_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights: .*model\.safetensors: no such file"):
        build(NETWORK, str(tmp_path), CLASSES)
    save(build("test_vit", "none", CLASSES), tmp_path / "model.safetensors", image_size=32)
    with pytest.raises(ValueError, match=r"\(it is of test_vit\) does not fit test_resnet: \d+ missing"):
        build(NETWORK, str(tmp_path), CLASSES)
