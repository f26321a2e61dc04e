"""XMixup, for training loops of other people: equal to its operators. The README's loop is run by test_docs.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo.testing
from samples import IMAGENET, make_pool
from torch import Tensor

from xmixup_fast import ImagePool, MixedLabels, XMixup, joint_labels
from xmixup_fast.ops import reference
from xmixup_fast.ops.auxiliary_index import AuxiliaryIndex
from xmixup_fast.ops.lam import beta_quantiles

SIZE, CLASSES = (9, 12), [[3], [1, 5]]


def made_aux(device: torch.device) -> ImagePool:
    pool = make_pool([(12, 15), (9, 12), (20, 14), (11, 13)], torch.Generator().manual_seed(1))
    pool.labels.copy_(torch.tensor([3, 1, 5, 3]))
    return pool.to(device)


def made_batch(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and sample ids."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (6, 13, 16, 3), dtype=torch.uint8, generator=generator)
    return images.to(device), torch.tensor([0, 1, 1, 0, 1, 0]).to(device), torch.arange(100, 106).to(device)


def made_xmixup(device: torch.device, **settings: Any) -> XMixup:
    return XMixup(made_aux(device), CLASSES, size=SIZE, **IMAGENET, **settings)


@pytest.mark.parametrize("cutmix", [True, False])
def test_a_batch_is_what_the_reference_draws_and_mixes(device: torch.device, cutmix: bool) -> None:
    images, labels, sample = made_batch(device)
    mixed, (target, source, lam) = made_xmixup(device, seed=7, cutmix=cutmix)(images, labels, sample, epoch=3)
    pool, aux = ImagePool.from_dense(images), made_aux(device)
    index = AuxiliaryIndex.of(aux, CLASSES)
    drawn = reference.draw(
        7,
        sample=sample,
        epoch=torch.full_like(sample, 3),
        label=labels,
        target_index=torch.arange(6, device=device),
        target_sizes=pool.sizes,
        offsets=index.offsets,
        members=index.members,
        aux_sizes=aux.sizes,
        lam_quantiles=beta_quantiles(0.2, fold=True).to(device),
        size=SIZE,
        box=cutmix,
    )
    expected = reference.mix_plan(pool, aux, drawn, size=SIZE, **IMAGENET)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=4e-6)
    assert torch.equal(target, labels) and torch.equal(lam, drawn.lam) and (lam >= 0.4).all() and (lam < 1).any()
    assert torch.equal(source, aux.labels[drawn.aux_crops.index])
    assert all(int(s) in CLASSES[int(t)] for s, t in zip(source, target, strict=True))


def test_indices_into_a_pool_give_the_same_as_its_images(device: torch.device) -> None:
    images, labels, sample = made_batch(device)
    index = torch.tensor([5, 0, 3, 3, 1, 2], device=device)
    xmixup = made_xmixup(device, target=ImagePool.from_dense(images))
    by_index, labels_by_index = xmixup(index, labels, sample, 0)
    by_image, labels_by_image = xmixup(images[index], labels, sample, torch.zeros_like(sample))
    assert torch.equal(by_index, by_image)
    assert all(torch.equal(a, b) for a, b in zip(labels_by_index, labels_by_image, strict=True))


def test_a_sample_is_the_same_in_any_batch_and_another_in_the_next_epoch(device: torch.device) -> None:
    images, labels, sample = made_batch(device)
    xmixup = made_xmixup(device)
    mixed, _ = xmixup(images, labels, sample, 0)
    order = torch.tensor([4, 2], device=device)
    some, _ = xmixup(images[order], labels[order], sample[order], 0)
    assert torch.equal(some, mixed[order])
    assert not torch.equal(xmixup(images, labels, sample, 1)[0], mixed)
    assert not torch.equal(made_xmixup(device, seed=1)(images, labels, sample, 0)[0], mixed)


def test_channels_may_come_first(device: torch.device) -> None:
    images, labels, sample = made_batch(device)
    mixed, _ = made_xmixup(device)(images, labels, sample, 0)
    planes = images.permute(0, 3, 1, 2)
    for batch in (planes, planes.contiguous()):
        assert torch.equal(made_xmixup(device)(batch, labels, sample, 0)[0], mixed)


def test_without_sample_ids_draws_follow_torchs_generator(device: torch.device) -> None:
    images, labels, _ = made_batch(device)
    xmixup = made_xmixup(device)
    torch.manual_seed(3)
    first, second = xmixup(images, labels), xmixup(images, labels)
    assert not torch.equal(first[0], second[0]) and not torch.equal(first[1].lam, second[1].lam)
    torch.manual_seed(3)
    for before in (first, second):
        again = xmixup(images, labels)
        assert torch.equal(again[0], before[0])
        assert all(torch.equal(a, b) for a, b in zip(again[1], before[1], strict=True))


AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "erased": {"erase": 1.0, "erase_fill": "noise"},
    "all": {"crop": "resized", "color_jitter": (0.4, 0.4, 0.4, 0.1), "erase": 1.0, "erase_fill": "noise"},
}


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_pairs_are_what_a_call_mixes(device: torch.device, augmentation: str) -> None:
    batch = made_batch(device)
    xmixup = made_xmixup(device, fold=False, alpha=1.0, **AUGMENTATIONS[augmentation])
    mixed, labels = xmixup(*batch, 2)
    target, aux, pair_labels = xmixup.pairs(*batch, 2)
    assert all(torch.equal(a, b) for a, b in zip(pair_labels, labels, strict=True))
    # Mixing and normalising commute, because the weights' sum is 1.
    lam = labels.lam.view(-1, 1, 1, 1)
    torch.testing.assert_close(lam * target + (1 - lam) * aux, mixed, rtol=0, atol=1e-5)
    assert target.is_contiguous(memory_format=torch.channels_last) and not torch.equal(target, mixed)


def test_joint_labels_have_the_weights_of_both_classes() -> None:
    mixed = MixedLabels(torch.tensor([0, 2, 1]), torch.tensor([3, 0, 1]), torch.tensor([0.75, 1.0, 0.0]))
    expected = torch.tensor([[0.75, 0, 0, 0, 0, 0, 0.25], [0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0]])
    assert torch.equal(joint_labels(mixed, 3, 4), expected)
    half = expected.clone()
    half[:, 3:] /= 2
    assert torch.equal(joint_labels(mixed, 3, 4, source_weight=0.5), half)
    for classes in ((2, 4), (3, 3)):
        with pytest.raises(RuntimeError, match="out of bounds"):
            joint_labels(mixed, *classes)


def test_dtype_layout_and_out_are_those_asked_for(device: torch.device) -> None:
    batch = made_batch(device)
    plain, _ = made_xmixup(device)(*batch, 0)
    half, _ = made_xmixup(device, dtype=torch.bfloat16, memory_format=torch.contiguous_format)(*batch, 0)
    assert half.is_contiguous() and torch.equal(half, plain.to(torch.bfloat16))
    out = torch.empty_like(plain)
    written, _ = made_xmixup(device)(*batch, 0, out=out)
    assert written is out and torch.equal(out, plain)


@pytest.mark.parametrize("by_index", [False, True])
@pytest.mark.parametrize("call", ["__call__", "pairs"])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_compiles_to_one_graph_that_serves_every_epoch(augmentation: str, call: str, by_index: bool) -> None:
    torch._dynamo.reset()  # so that what was compiled before makes no shape dynamic
    cpu = torch.device("cpu")
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    images, labels, sample = made_batch(cpu)
    xmixup = made_xmixup(cpu, target=ImagePool.from_dense(images), **AUGMENTATIONS[augmentation])
    given = torch.arange(len(images)) if by_index else images
    eager = getattr(xmixup, call)
    compiled = torch.compile(eager, backend=counter, fullgraph=True)
    for epoch in range(3):
        epochs = torch.full_like(sample, epoch)
        expected, actual = (mix(given, labels, sample, epochs) for mix in (eager, compiled))
        assert all(map(torch.equal, actual[:-1], expected[:-1]))
        assert torch.equal(actual[-1].lam, expected[-1].lam)
    assert counter.frame_count == 1


@pytest.mark.parametrize("planes", [False, True])
def test_contrast_is_about_the_means_of_a_batchs_images(device: torch.device, planes: bool) -> None:
    """The pool of the same images, made before, gives the same batch as the images themselves."""
    images, labels, sample = made_batch(device)
    target = ImagePool.from_dense(images)
    xmixup = made_xmixup(device, target=target, color_jitter=(0, 0.9, 0))
    dense, _ = xmixup(images.permute(0, 3, 1, 2) if planes else images, labels, sample, 0)
    by_index, _ = xmixup(torch.arange(6, device=device), labels, sample, 0)
    assert torch.equal(dense, by_index)
    plain, _ = made_xmixup(device)(images, labels, sample, 0)
    assert not torch.equal(dense, plain)


def test_means_are_made_for_contrast_alone(device: torch.device) -> None:
    images, labels, sample = made_batch(device)
    plain, _ = made_xmixup(device)(images, labels, sample, 0)
    for settings in ({"color_jitter": 0.4, "color_jitter_prob": 0.0}, {"color_jitter": (0.4, 0, 0.4)}):
        target = ImagePool.from_dense(images)
        xmixup = made_xmixup(device, target=target, **settings)
        by_index, _ = xmixup(torch.arange(6, device=device), labels, sample, 0)
        assert torch.equal(by_index, plain) == ("color_jitter_prob" in settings)
        assert not any("means" in vars(pool) for pool in (target, xmixup.aux))
    target = ImagePool.from_dense(images)
    xmixup = made_xmixup(device, target=target, color_jitter=0.4)
    assert all("means" in vars(pool) for pool in (target, xmixup.aux))


def test_plain_shows_the_middle_of_images_and_names_smaller_ones(device: torch.device) -> None:
    images, _, _ = made_batch(device)
    mean, std = (torch.tensor(IMAGENET[name], device=device).view(3, 1, 1) for name in ("mean", "std"))
    middle = images[:, 2:11, 2:14].permute(0, 3, 1, 2)
    torch.testing.assert_close(made_xmixup(device).plain(images), (middle / 255 - mean) / std, rtol=0, atol=4e-6)
    target = make_pool([(9, 12), (20, 11), (13, 16)], torch.Generator().manual_seed(0)).to(device)
    resized = made_xmixup(device, target=target, crop="resized")
    for small in (images[:, :8], images[:, :, :11].permute(0, 3, 1, 2)):
        with pytest.raises(ValueError, match=r"^images: expected images of at least 9 x 12, .*, got (8 x 16|13 x 11)$"):
            resized.plain(small)
    assert resized.plain(torch.tensor([2, 0], device=device)).shape == (2, 3, 9, 12)
    message = r"^images\[1\]: expected an image of at least 9 x 12, .*, got image 1 of target, of 20 x 11$"
    with pytest.raises(ValueError, match=message):
        resized.plain(torch.tensor([2, 1], device=device))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(6, 13, 16, 3),
            r"images: expected uint8\[batch, height, width, 3\], .*int64\[batch\], got float32\[6, 13, 16, 3\]",
        ),
        (torch.zeros(6, 2, dtype=torch.int64), r"images: expected .*, got int64\[6, 2\]"),
        (torch.zeros(6, dtype=torch.int64), r"images: indices need XMixup\(target=...\)"),
        (torch.zeros(6, 4, 13, 16, dtype=torch.uint8), r"images: expected .*, got uint8\[6, 4, 13, 16\]"),
        (torch.zeros(6, 3, 16, dtype=torch.uint8), r"images: expected .*, got uint8\[6, 3, 16\]"),
    ],
)
def test_images_of_another_kind_are_refused(images: Tensor, message: str) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match=message):
        made_xmixup(cpu)(images, *made_batch(cpu)[1:], 0)


def test_what_the_operators_refuse_is_named() -> None:
    images, labels, sample = made_batch(torch.device("cpu"))
    xmixup = made_xmixup(torch.device("cpu"))
    with pytest.raises(RuntimeError, match=r"label\[0\]: expected a class from 0 to 1, got 2"):
        xmixup(images, labels + 2, sample, 0)
    with pytest.raises(RuntimeError, match="epoch"):
        xmixup(images, labels, sample, -1)
    with pytest.raises(RuntimeError, match=r"target_sizes\[0\]: expected an image that holds a window of 9 x 12"):
        xmixup(images[:, :8].contiguous(), labels, sample, 0)
    with pytest.raises(ValueError, match="alpha: expected a positive number, got 0"):
        made_xmixup(torch.device("cpu"), alpha=0)
    with pytest.raises(
        ValueError, match=r"source_classes\[1\]: no auxiliary image has label 9; the labels of aux are \[1, 3, 5\]"
    ):
        XMixup(made_aux(torch.device("cpu")), [[3], [9]], size=SIZE, **IMAGENET)
