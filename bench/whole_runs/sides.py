"""The sides of a whole run: the same recipe, as the users of each library would write it from its documentation.

python -m whole_runs.sides SIDE RECIPE, with the recipe as JSON: bench/end_to_end.py starts it so

All have as many workers as there are cores, networks in channels_last, which is faster on CPUs, and new heads as
``torch.nn.Linear`` makes them: timm's own begin at ten times the values, and reach less in so few steps. None writes
logs or checkpoints between epochs, or anything else that is not needed for the saved model.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from whole_runs.recipe import Recipe, imported, saved


def ours(recipe: Recipe, method: str, **more: Any) -> None:
    """:func:`xmixup_fast.fit`. New heads learn as fast as all else, and the last weights are kept, as with the others.

    No report is written, as the others write none, and the test images are not looked at.
    """
    from xmixup_fast import fit

    steps = imported()
    result = fit(
        recipe.target,
        model=recipe.model,
        method=method,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        lr=recipe.lr,
        head_lr_multiplier=1.0,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        image_size=recipe.image_size,
        resize=recipe.resize,
        seed=recipe.seed,
        keep="last",
        test="none",
        report=False,
        device="cpu",
        cache=recipe.cache,
        output=recipe.output,
        **more,
    )
    saved(result.folder / "model.safetensors", steps)


def finetune(recipe: Recipe) -> None:
    """Ours, plain fine-tuning."""
    ours(recipe, "finetune")


def xmixup(recipe: Recipe) -> None:
    """Ours, each image blended with one of a source; the source's classes are chosen by the run itself."""
    ours(recipe, "xmixup", source=recipe.source)


def crops(recipe: Recipe, finish: list[Any]) -> dict[str, Any]:
    """torchvision's transforms for train and val: resized, cropped, half of the training images mirrored; then
    ``finish``."""
    from torchvision.transforms import v2

    random = [v2.RandomCrop(recipe.image_size), v2.RandomHorizontalFlip()]
    crop = {"train": random, "val": [v2.CenterCrop(recipe.image_size)]}
    return {split: v2.Compose([v2.Resize(recipe.resize), *crop[split], *finish]) for split in crop}


def fastai(recipe: Recipe) -> None:
    """fastai's ``vision_learner``, unfrozen, with a linear head in place of its own, and PyTorch's SGD by OptimWrapper,
    as fastai's has no Nesterov momentum. Images are mirrored one by one, in the workers, as that costs least on CPUs.
    """
    from fastai.callback.channelslast import ChannelsLast
    from fastai.vision.all import (
        CrossEntropyLossFlat,
        FlipItem,
        ImageDataLoaders,
        OptimWrapper,
        ParamScheduler,
        RandomCrop,
        RatioResize,
        SchedCos,
        accuracy,
        set_seed,
        vision_learner,
    )
    from PIL import Image
    from torch import nn
    from torch.optim import SGD

    steps = imported()
    set_seed(recipe.seed)
    with Image.open(next(Path(recipe.target).rglob("*.jpg"))) as image:
        long_side = round(recipe.resize * max(image.size) / min(image.size))  # which is what RatioResize takes
    loaders = ImageDataLoaders.from_folder(
        recipe.target,
        train="train",
        valid="val",
        item_tfms=[RatioResize(long_side), RandomCrop(recipe.image_size), FlipItem()],
        bs=recipe.batch_size,
        num_workers=recipe.workers,
    )
    features = json.loads(Path(recipe.start, "config.json").read_text())["num_features"]
    optimizer = {"momentum": recipe.momentum, "nesterov": True, "weight_decay": recipe.weight_decay}
    learner = vision_learner(
        loaders,
        recipe.model,
        custom_head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, recipe.classes)),
        loss_func=CrossEntropyLossFlat(),
        opt_func=partial(OptimWrapper, opt=SGD, **optimizer),
        init=None,  # the head stays as PyTorch makes it
        metrics=accuracy,
        cbs=ChannelsLast(),
        path=recipe.output,
    )
    learner.unfreeze()
    with learner.no_bar():
        learner.fit(recipe.epochs, lr=recipe.lr, cbs=ParamScheduler({"lr": SchedCos(recipe.lr, 0)}))
    saved(learner.save("model", with_opt=False), steps, {"0.model.": "", "1.2.": "classifier."})


def lightning_classifier(recipe: Recipe) -> Any:
    """The class of Lightning's module."""
    import lightning
    import timm
    import torch
    import torch.nn.functional as F
    from torch.optim.lr_scheduler import CosineAnnealingLR

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            network = timm.create_model(recipe.model, pretrained=True, num_classes=recipe.classes)
            network.get_classifier().reset_parameters()
            self.network = network.to(memory_format=torch.channels_last)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            images, labels = batch
            return F.cross_entropy(self.network(images), labels)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            images, labels = batch
            correct = self.network(images).argmax(1) == labels
            self.log("val_accuracy", correct.float().mean(), batch_size=len(labels))

        def configure_optimizers(self) -> Any:
            options = {"momentum": recipe.momentum, "nesterov": True, "weight_decay": recipe.weight_decay}
            optimizer = torch.optim.SGD(self.parameters(), lr=recipe.lr, **options)
            schedule = CosineAnnealingLR(optimizer, T_max=self.trainer.estimated_stepping_batches)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Classifier


def lightning(recipe: Recipe) -> None:
    """Lightning's Trainer, with torchvision's ImageFolder, decoder and transforms of tensors, which its documentation
    calls the fastest, in a DataLoader with persistent workers. No validation before training.
    """
    import lightning
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    classifier = lightning_classifier(recipe)  # here, as it imports what the module needs
    steps = imported()
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    module = classifier()
    config = module.network.pretrained_cfg
    transforms = crops(recipe, [v2.ToDtype(torch.float32, scale=True), v2.Normalize(config["mean"], config["std"])])

    def loader(split: str) -> DataLoader:
        decode = partial(decode_image, mode=ImageReadMode.RGB)
        images = ImageFolder(f"{recipe.target}/{split}", transforms[split], loader=decode)
        trains = split == "train"
        workers = {"num_workers": recipe.workers, "persistent_workers": recipe.workers > 0}
        return DataLoader(images, recipe.batch_size, shuffle=trains, drop_last=trains, **workers)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=recipe.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loader("train"), loader("val"))
    file = Path(recipe.output, "model.ckpt")
    trainer.save_checkpoint(file, weights_only=True)
    saved(file, steps, {"network.": ""}, key="state_dict")


def huggingface_arguments(recipe: Recipe) -> Any:
    """The arguments of Hugging Face's Trainer."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=recipe.output,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        learning_rate=recipe.lr,
        lr_scheduler_type="cosine",
        max_grad_norm=0.0,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=recipe.workers,
        dataloader_persistent_workers=recipe.workers > 0,
        dataloader_pin_memory=False,
        dataloader_drop_last=False,
        use_cpu=True,
        seed=recipe.seed,
    )


def huggingface(recipe: Recipe) -> None:
    """Hugging Face's Trainer with its wrapper of timm's networks, and datasets' imagefolder with torchvision's
    transforms, as in the guide on image classification. Workers persist, and gradients are not clipped. The optimiser
    is given, as the Trainer's own spares normalisation layers and biases weight decay. What datasets knows of the files
    is kept for later turns.
    """
    import numpy as np
    import torch
    from datasets import load_dataset
    from torchvision.transforms import v2
    from transformers import AutoModelForImageClassification, DefaultDataCollator, Trainer, set_seed

    steps = imported()
    set_seed(recipe.seed)
    splits = {split: f"{recipe.target}/{split}/**" for split in ("train", "val")}
    data = load_dataset("imagefolder", data_files=splits, cache_dir=recipe.cache)
    labels = dict(enumerate(data["train"].features["label"].names))
    network = AutoModelForImageClassification.from_pretrained(
        recipe.start,
        num_labels=recipe.classes,
        id2label=labels,
        label2id={name: number for number, name in labels.items()},
        ignore_mismatched_sizes=True,
    ).to(memory_format=torch.channels_last)
    network.timm_model.get_classifier().reset_parameters()
    config = network.config.pretrained_cfg
    normalise = v2.Normalize(config["mean"], config["std"])
    transforms = crops(recipe, [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalise])

    def transformed(split: str) -> Any:
        def examples(batch: dict[str, Any]) -> dict[str, Any]:
            images = [transforms[split](image.convert("RGB")) for image in batch["image"]]
            return {"pixel_values": images, "label": batch["label"]}

        return data[split].with_transform(examples)

    def metrics(predicted: Any) -> dict[str, float]:
        return {"accuracy": float(np.mean(predicted.predictions.argmax(1) == predicted.label_ids))}

    options = {"momentum": recipe.momentum, "nesterov": True, "weight_decay": recipe.weight_decay}
    optimizer = torch.optim.SGD(network.parameters(), lr=recipe.lr, **options)
    trainer = Trainer(
        model=network,
        args=huggingface_arguments(recipe),
        data_collator=DefaultDataCollator(),
        train_dataset=transformed("train"),
        eval_dataset=transformed("val"),
        compute_metrics=metrics,
        optimizers=(optimizer, None),
    )
    trainer.train()
    trainer.save_model()
    saved(Path(recipe.output, "model.safetensors"), steps)


def timm_loader(recipe: Recipe, split: str, config: dict[str, Any], transform: Any) -> Any:
    """timm's loader of a split, with a transform in place of its own; ``config`` is the network's."""
    import torch
    from timm.data import create_dataset, create_loader

    dataset = create_dataset("", root=recipe.target, split=split)
    loader = create_loader(
        dataset,
        (3, recipe.image_size, recipe.image_size),
        recipe.batch_size,
        is_training=split == "train",
        mean=config["mean"],
        std=config["std"],
        num_workers=recipe.workers,
        device=torch.device("cpu"),
    )
    dataset.transform = transform
    return loader


def timm_accuracy(network: Any, batches: Any) -> float:
    """The accuracy in per cent, as timm's train.py computes it."""
    import torch
    from timm.utils import AverageMeter, accuracy

    network.eval()
    top1 = AverageMeter()
    with torch.inference_mode():
        for input, target in batches:
            output = network(input.contiguous(memory_format=torch.channels_last))
            top1.update(accuracy(output, target)[0].item(), len(target))
    return float(top1.avg)


def timm(recipe: Recipe) -> None:
    """timm's dataset, loader with prefetcher, optimiser, scheduler and loop, as in its train.py; its own transforms are
    replaced, as they have no crop of a resized image without a random scale.
    """
    import torch
    from timm import create_model
    from timm.data.transforms import ToNumpy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import random_seed

    transforms = crops(recipe, [ToNumpy()])  # here, as it imports torchvision's
    steps = imported()
    random_seed(recipe.seed)
    network = create_model(recipe.model, pretrained=True, num_classes=recipe.classes)
    network.get_classifier().reset_parameters()
    network = network.to(torch.device("cpu"), memory_format=torch.channels_last)
    config = network.pretrained_cfg
    train, val = (timm_loader(recipe, split, config, transforms[split]) for split in ("train", "val"))
    options = {"lr": recipe.lr, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    optimizer = create_optimizer_v2(network, opt="sgd", filter_bias_and_bn=False, **options)
    scheduler, _ = create_scheduler_v2(
        optimizer, "cosine", recipe.epochs, min_lr=0.0, step_on_epochs=False, updates_per_epoch=len(train)
    )
    loss_fn = torch.nn.CrossEntropyLoss()
    update = 0
    for epoch in range(recipe.epochs):
        network.train()
        for input, target in train:
            input = input.contiguous(memory_format=torch.channels_last)
            loss = loss_fn(network(input), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update += 1
            scheduler.step_update(update)
        print(f"epoch {epoch}: {timm_accuracy(network, val):.2f} %", flush=True)
    file = Path(recipe.output, "model.pth.tar")
    torch.save({"state_dict": network.state_dict()}, file)
    saved(file, steps, key="state_dict")


SIDES = {side.__name__: side for side in (finetune, xmixup, fastai, lightning, huggingface, timm)}


if __name__ == "__main__":
    told = Recipe(**json.loads(sys.argv[2]))
    SIDES[sys.argv[1]](told)
