"""XMixup in other libraries' trainers, with the real libraries: validation, labels for one head, and what is refused.

That training batches are what the reference mixes is tested with the examples, in tests/project/test_examples.py.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from samples import IMAGENET
from timm.data import create_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, StackDataset, TensorDataset

from xmixup_fast import ImagePool, MixedLabels, XMixup
from xmixup_fast.integrations import huggingface, timm, torchvision
from xmixup_fast.integrations.lightning import XMixupCallback

TARGET_CLASSES, SOURCE_CLASSES = 2, 3
IMAGES = torch.randint(256, (8, 3, 40, 44), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % TARGET_CLASSES


@pytest.fixture
def xmixup() -> XMixup:
    images = torch.randint(256, (6, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    aux = ImagePool.from_dense(images, [0, 1, 2, 0, 1, 2])
    return XMixup(aux, [[0], [1, 2]], size=32, **IMAGENET)


def center(images: Tensor) -> Tensor:
    """The centre crops, normalised."""
    mean, std = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (images[:, :, 4:36, 6:38] / 255 - mean) / std


def test_plain_images_are_normalised_centre_crops(xmixup: XMixup) -> None:
    torch.testing.assert_close(xmixup.plain(IMAGES), center(IMAGES))
    torch.testing.assert_close(xmixup.plain(IMAGES.permute(0, 2, 3, 1)), center(IMAGES))
    assert xmixup.plain(IMAGES[:0]).shape == (0, 3, 32, 32)


def test_another_device_takes_all_of_xmixup_along(xmixup: XMixup) -> None:
    assert xmixup.to("cpu") is xmixup
    moved = xmixup.to("meta")
    assert {moved.aux.device.type, moved._quantiles.device.type, moved._index.members.device.type} == {"meta"}
    assert xmixup.aux.device.type == "cpu"


# --- timm and torchvision ---


class Photos(torch.utils.data.Dataset[Any]):
    """Images as timm's transforms make them."""

    transform = None

    def __init__(self) -> None:
        self.images = IMAGES[:, :, :32, :32]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        picture = Image.fromarray(self.images[i].permute(1, 2, 0).numpy())
        return self.transform(picture) if self.transform else picture, int(LABELS[i])


def test_timms_loader_ends_the_mixing_where_train_py_does(xmixup: XMixup) -> None:
    collate = timm.XMixupCollate(xmixup, TARGET_CLASSES, SOURCE_CLASSES)
    loader = create_loader(
        Photos(),
        (3, 32, 32),
        batch_size=8,
        is_training=True,
        no_aug=True,
        num_workers=0,
        device=torch.device("cpu"),
        collate_fn=collate,
    )
    assert loader.mixup_enabled
    ((_, mixed),) = loader
    assert mixed.shape == (8, 5) and torch.allclose(mixed.sum(1), torch.ones(8)) and (mixed[:, 2:].sum(1) > 0).any()
    loader.mixup_enabled = False
    ((images, labels),) = loader
    assert torch.equal(labels.sum(0), torch.tensor([4.0, 4, 0, 0, 0]))
    mean, std = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ("mean", "std"))
    pictures = {tuple(image.flatten().tolist()) for image in (images * std + mean).mul(255).round().int()}
    assert pictures == {tuple(image.flatten().tolist()) for image in Photos().images}


def test_timms_loader_without_prefetcher_is_refused(xmixup: XMixup) -> None:
    collate = timm.XMixupCollate(xmixup, TARGET_CLASSES, SOURCE_CLASSES)
    with pytest.raises(TypeError, match=r"expected images of bytes, got torch.float32; create_loader needs its prefet"):
        collate([(torch.zeros(3, 32, 32), 0)])


@pytest.mark.parametrize("module", [timm, torchvision])
def test_batches_are_collated_on_the_cpu(xmixup: XMixup, module: Any) -> None:
    with pytest.raises(ValueError, match="xmixup: expected one on the CPU, where batches are collated, got meta"):
        module.XMixupCollate(xmixup.to("meta"), TARGET_CLASSES, SOURCE_CLASSES)


# --- Lightning ---


class Module(lightning.LightningModule):
    """A module with one head, which keeps its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, TARGET_CLASSES + SOURCE_CLASSES)
        self.seen: list[tuple[str, Any]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(("train", batch))
        images, labels = batch
        labels = labels.target if isinstance(labels, MixedLabels) else labels
        return F.cross_entropy(self.head(images.mean((2, 3))), labels)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.seen.append(("val", batch))

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(("predict", batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def lightning_trainer(callback: XMixupCallback) -> lightning.Trainer:
    return lightning.Trainer(
        max_steps=1,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


@pytest.mark.parametrize("classes", [None, (TARGET_CLASSES, SOURCE_CLASSES)], ids=["two heads", "one head"])
def test_lightning_trains_on_mixed_and_validates_on_plain_images(xmixup: XMixup, classes: Any) -> None:
    module, loader = Module(), DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8)
    floats = DataLoader(TensorDataset(center(IMAGES), LABELS), batch_size=8)
    trainer = lightning_trainer(XMixupCallback(xmixup, classes))
    trainer.fit(module, loader, [loader, floats])
    trainer.predict(module, loader)
    assert [name for name, _ in module.seen] == ["train", "val", "val", "predict"]
    (_, (images, labels)), *plain = module.seen
    assert images.shape == (8, 3, 32, 32) and not torch.allclose(images, center(IMAGES), atol=0.1)
    if classes is None:
        assert isinstance(labels, MixedLabels) and torch.equal(labels.target, LABELS)
    else:
        assert labels.shape == (8, 5) and torch.equal(labels[:, :2].argmax(1), LABELS)
    for _, (images, labels) in plain:
        torch.testing.assert_close(images, center(IMAGES))
        assert torch.equal(labels, LABELS)


def test_lightning_batches_that_cannot_be_changed_are_refused(xmixup: XMixup) -> None:
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8, collate_fn=lambda _: (IMAGES, LABELS))
    with pytest.raises(
        TypeError, match=r"batch: expected a list of images and labels, .* got tuple; a DataLoader makes"
    ):
        lightning_trainer(XMixupCallback(xmixup)).fit(Module(), loader)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "xmixup_fast.integrations.lightning"
    for missing in ("lightning", "lightning.pytorch"):
        monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=f"{name} needs lightning: pip install lightning"):
        importlib.import_module(name)


# --- Hugging Face ---


class Trainer(huggingface.XMixupTrainerMixin, transformers.Trainer):
    pass


def hugging_face_trainer(folder: Path, xmixup: XMixup, **options: Any) -> Trainer:
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=TARGET_CLASSES + SOURCE_CLASSES
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    model = transformers.ResNetForImageClassification(config)
    return Trainer(model=model, args=arguments, xmixup=xmixup, target_classes=TARGET_CLASSES, **options)


def test_hugging_face_predicts_target_classes_of_plain_images(xmixup: XMixup, tmp_path: Path) -> None:
    trainer = hugging_face_trainer(tmp_path, xmixup)
    bytes_, floats = (
        trainer.predict(StackDataset(pixel_values=images, labels=LABELS)) for images in (IMAGES, center(IMAGES))
    )
    assert bytes_.predictions.shape == (8, TARGET_CLASSES)
    np.testing.assert_allclose(bytes_.predictions, floats.predictions, atol=1e-5)
    assert np.array_equal(bytes_.label_ids, LABELS) and bytes_.metrics["test_loss"] > 0
    unlabelled = trainer.predict(StackDataset(pixel_values=IMAGES))
    np.testing.assert_allclose(unlabelled.predictions, bytes_.predictions, atol=1e-5)


def test_hugging_face_trains_on_a_column_of_pictures(xmixup: XMixup, tmp_path: Path) -> None:
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()).resize((50 + i, 60)) for i, image in enumerate(IMAGES)]
    pictures[0] = pictures[0].convert("L")
    examples = [{"image": picture, "label": int(label)} for picture, label in zip(pictures, LABELS, strict=True)]
    trainer = hugging_face_trainer(
        tmp_path, xmixup, train_dataset=examples, data_collator=huggingface.XMixupCollator(36)
    )
    assert trainer.train().training_loss > 0


def test_the_collator_makes_bytes_of_one_size() -> None:
    pictures = [Image.new("RGB", (50, 60), (10, 20, 30)), Image.new("L", (36, 90), 7)]
    batch = huggingface.XMixupCollator(36, "img", "fine_label")(
        [{"img": picture, "fine_label": i} for i, picture in enumerate(pictures)]
    )
    assert batch["pixel_values"].shape == (2, 36, 36, 3) and batch["pixel_values"].dtype == torch.uint8
    assert batch["pixel_values"][0, 0, 0].tolist() == [10, 20, 30] and batch["pixel_values"][1].unique().tolist() == [7]
    assert batch["labels"].tolist() == [0, 1]
    assert set(huggingface.XMixupCollator(36)([{"image": pictures[0]}])) == {"pixel_values"}
    with pytest.raises(KeyError, match="expected a column image, got label; name the column, and set remove_unused"):
        huggingface.XMixupCollator(36)([{"label": 0}])


def test_the_mixin_comes_before_the_trainer(xmixup: XMixup) -> None:
    class Wrong(huggingface.XMixupTrainerMixin):
        pass

    with pytest.raises(TypeError, match=r"Wrong: expected the mixin to come before transformers.Trainer"):
        Wrong(xmixup=xmixup, target_classes=2)
