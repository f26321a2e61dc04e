"""Random arguments of `draw`, which tests and benchmarks share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xmixup_fast import Augmentation, MixPlan

RECIPE = Augmentation(
    scale=(0.08, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter_probability=0.8, erase=0.5
)
"""All that an augmentation does, often enough for a few samples to show it."""


@dataclass
class DrawInputs:
    """The arguments of one call of `draw`."""

    seed: int
    sample: Tensor
    epoch: Tensor
    label: Tensor
    target_index: Tensor
    target_sizes: Tensor
    offsets: Tensor
    members: Tensor
    aux_sizes: Tensor
    lam_quantiles: Tensor
    size: tuple[int, int]
    flip: bool = True
    box: bool = False
    augmentation: Augmentation | None = None
    target_means: Tensor | None = None
    aux_means: Tensor | None = None
    aux_labels: Tensor | None = None
    partner: Tensor | None = None
    mixed: Tensor | None = None
    one_lam: bool = False

    @classmethod
    def make(
        cls,
        batch: int = 3,
        size: tuple[int, int] = (5, 7),
        *,
        room: int = 9,
        images: int = 4,
        aux_images: int = 10,
        classes: int = 3,
        intervals: int = 16,
        seed: int = 0,
    ) -> DrawInputs:
        """Random arguments. Every class has a member, unless there are no auxiliary images.

        Args:
            batch: number of samples.
            size: height and width of the output.
            room: images are up to so many pixels larger than the output.
            images: number of target images.
            aux_images: number of auxiliary images.
            classes: number of target classes.
            intervals: number of intervals of the table of quantiles.
            seed: of the random numbers.
        """
        generator = torch.Generator().manual_seed(seed)

        def random_below(n: int, *shape: int) -> Tensor:
            return torch.randint(0, n, shape, generator=generator)

        def random_sizes(n: int) -> Tensor:
            return (torch.tensor(size) + random_below(room + 1, n, 2)).int()

        lengths = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + random_below(5, classes)]) * (aux_images > 0)
        offsets = lengths.cumsum(0)
        quantiles = torch.rand(intervals + 1, generator=generator).sort().values
        return cls(
            seed=seed,
            sample=random_below(2**62, batch),
            epoch=random_below(2**32, batch),
            label=random_below(classes, batch),
            target_index=random_below(images, batch),
            target_sizes=random_sizes(images),
            offsets=offsets,
            members=random_below(max(aux_images, 1), int(offsets[-1])),
            aux_sizes=random_sizes(aux_images),
            lam_quantiles=quantiles,
            size=size,
        )

    def augmented(self, augmentation: Augmentation = RECIPE, seed: int = 0, most: int = 40) -> DrawInputs:
        """The same call with an augmentation, mean colours, and labels of auxiliary images.

        Where windows are resized, images have other sizes, of up to ``most`` pixels a side.
        """
        generator = torch.Generator().manual_seed(seed)

        def random_means(images: int) -> Tensor:
            return torch.randint(0, 256, (images, 8, 8, 3), dtype=torch.uint8, generator=generator)

        def random_sizes(sizes: Tensor) -> Tensor:
            if augmentation.scale is None:
                return sizes
            return torch.randint(1, most + 1, sizes.shape, dtype=torch.int32, generator=generator)

        return replace(
            self,
            augmentation=augmentation,
            target_sizes=random_sizes(self.target_sizes),
            aux_sizes=random_sizes(self.aux_sizes),
            target_means=random_means(len(self.target_sizes)),
            aux_means=random_means(len(self.aux_sizes)),
            aux_labels=torch.randint(0, 1000, (len(self.aux_sizes),), generator=generator),
        )

    def with_mixed(self, seed: int = 0) -> DrawInputs:
        """The same call in which half of the samples are not mixed."""
        generator = torch.Generator().manual_seed(seed)
        return replace(self, mixed=torch.rand(len(self.sample), generator=generator) < 0.5)

    def with_partners(self, seed: int = 0) -> DrawInputs:
        """The same call with partners in place of auxiliary images."""
        generator = torch.Generator().manual_seed(seed)
        batch = len(self.sample)
        partner = torch.randint(0, max(batch, 1), (batch,), generator=generator)
        return replace(self, members=self.members[:0], partner=partner)

    def to(self, device: torch.device) -> DrawInputs:
        moved = (Tensor, Augmentation)
        return replace(self, **{n: v.to(device) for n, v in vars(self).items() if isinstance(v, moved)})

    def of(self, samples: slice | Tensor) -> DrawInputs:
        """The arguments for some samples of the batch, which have no partners."""
        assert self.partner is None
        names = ("sample", "epoch", "label", "target_index", *(["mixed"] if self.mixed is not None else []))
        return replace(self, **{name: getattr(self, name)[samples] for name in names})

    def call(self, draw: Any) -> MixPlan:
        """Calls `draw` of `ops` or `reference` with these arguments."""
        plan = draw(**vars(self))
        assert isinstance(plan, MixPlan)
        return plan

    def raw(self) -> dict[str, Any]:
        """The arguments of torch.ops.xmixup_fast.draw."""
        chosen = self.augmentation or Augmentation()
        given = {name: value for name, value in vars(self).items() if name != "augmentation"}
        steps = (chosen.brightness, chosen.contrast, chosen.saturation, chosen.hue, chosen.jitter_probability)
        return given | {
            "ratios": chosen.ratios if chosen.scale else None,
            "turns": chosen.turns if chosen.hue > 0 and chosen.jitters else None,
            "erase_ratios": chosen.erase_ratios if chosen.erase > 0 else None,
            "scale": chosen.scale or (),
            "jitter": steps if chosen.jitters else (),
            "erase": (chosen.erase, *chosen.erase_scale) if chosen.erase > 0 else (),
        }


def assert_same(plan: MixPlan, expected: MixPlan) -> None:
    """Fails unless two plans have the same bits and are on the same device."""
    for actual, wanted in zip(plan, expected, strict=True):
        assert actual.dtype == wanted.dtype and actual.device == wanted.device and torch.equal(actual, wanted)
