"""The interface of a transfer method: what a step looks at, and its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches.plan import Second, StepPlan
from ..batches.render import Content, Pools, render, render_auxiliary
from ..batches.sampler import Sampler
from ..models.network import Network
from ..ops.image_format import ImageFormat, OutputBuffers
from ..selection.statistics import LabelledBatches
from ..settings.fields import Settings

Batches = Callable[[], LabelledBatches]
"""Gives, each time it is called, one pass over the training images: unmixed centre crops with their labels."""


class Method(ABC):
    """One way to train: the class attributes say what a step looks at, :meth:`loss` what it minimises.

    A new run makes the method with the network at its start, and calls :meth:`measure`; a resumed run calls
    :meth:`load_state_dict` instead. Each step then calls :meth:`plan`, :meth:`before_step`, :meth:`images` and
    :meth:`loss`, in this order. ``step`` counts all steps of the run from 0; ``steps`` are those of fine-tuning, to
    which :meth:`source_phase_steps` come on top.

    On a GPU no step may have the host wait: it reads no value of a tensor (``item``, ``tolist``, ``nonzero``, a mask as
    an index), and brings tensors of the CPU to the device by :func:`~xmixup_fast.runtime.device.upload`.

    A constructor raises ValueError where the network lacks what the method needs: it is called before an image is read.
    """

    uses_source: ClassVar[bool] = False
    """Whether it needs auxiliary images, and a source head."""
    uses_classifier: ClassVar[bool] = False
    """Whether it needs a source head that starts as the pretrained classifier; auxiliary images it may do without."""
    second: ClassVar[Second | None] = None
    """What each target image is mixed with; None for methods that do not mix."""
    box: ClassVar[bool] = False
    """Whether the second image is pasted as a box, as CutMix does; else it is blended."""
    shows: ClassVar[tuple[Content, ...]] = ("mixed",)
    """The batches that a step looks at."""
    takes_steps: ClassVar[bool] = True
    """Whether it trains in steps; else the run fits the target head on the frozen features, and that is all."""
    has_unused_parameters: ClassVar[bool] = False
    """Whether some parameters that are trained have no part in some steps' losses."""

    def __init__(self, settings: Settings, network: Network) -> None:
        self.settings = settings
        self.state: dict[str, Tensor] = {}
        """What a resumed run needs, on the network's device: filled in here, changed in place by :meth:`measure`.
        Tensors alone, as checkpoints are safetensors files."""
        self.class_weights: Tensor | None = None
        """float32[K_t], what :meth:`weigh_classes` was given; None for equal weights."""

    def weigh_classes(self, weights: Tensor) -> None:
        """Weighs the losses of target classes, float32[K_t] on the network's device; resumed runs keep the weights."""
        self.class_weights = self.state["class_weights"] = weights

    def measure(self, network: Network, batches: Batches) -> None:
        """Measures what the method needs to know of the training images. Here: nothing."""
        return

    def source_phase_steps(self, steps: int) -> int:
        """How many steps on source images alone come before ``steps`` of fine-tuning, with a schedule of their own."""
        return 0

    def plan(self, sampler: Sampler, step: int) -> StepPlan:
        """The plan of a step."""
        return sampler.plan(step, second=self.second, box=self.box)

    def before_step(self, network: Network, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        """Changes what changes as training goes on. Here: nothing.

        Parameters keep their memory, as CUDA graphs read it there; :func:`forget` has them start anew.
        """
        return

    def images(self, plan: StepPlan, pools: Pools, form: ImageFormat, buffers: OutputBuffers) -> tuple[Tensor, ...]:
        """The batches that the step looks at, each [B, 3, size, size]: one for each content of ``shows``."""
        rendered = []
        for content in self.shows:
            out = buffers.get(content, len(plan), form, plan.lam.device)
            images = (render if content == "mixed" else render_auxiliary)(plan, pools, form, out)
            if content == "mixed" and self.settings.keep_contrast and self.second is not None and not self.box:
                images.mul_(contrast_of_one(plan.lam).to(images.dtype)[:, None, None, None])
            rendered.append(images)
        return tuple(rendered)

    @abstractmethod
    def loss(self, network: Network, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        """The scalar to minimise, for the batches of :meth:`images`."""

    def titles(self, plan: StepPlan, target_classes: Sequence[str], source_classes: Sequence[str]) -> list[list[str]]:
        """What batch.png says above each image of each batch: its class, and for mixed images both with the weight."""
        return [self._titles(content, plan, target_classes, source_classes) for content in self.shows]

    def _titles(
        self, content: Content, plan: StepPlan, target_classes: Sequence[str], source_classes: Sequence[str]
    ) -> list[str]:
        first = [target_classes[label] for label in plan.label.tolist()]
        if content == "mixed" and self.second is None:
            return first
        classes = target_classes if self.second == "partner" else source_classes
        second = [classes[label] for label in plan.second_classes.tolist()]
        if content == "auxiliary":
            return second
        return [f"{lam:.2f} {a}\n+ {b}" for lam, a, b in zip(plan.lam.tolist(), first, second, strict=True)]

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs, besides network, optimiser and step. The tensors are not copied."""
        return dict(self.state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what :meth:`state_dict` gave.

        Raises ValueError for tensors of other names or shapes, as of another method or network.
        """
        load_state(self.state, state)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross entropy of each sample, float[B], smoothed by ``label_smoothing``."""
        smoothing = self.settings.label_smoothing
        return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)

    def target_cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross entropy of each sample with a target class as its label, times the weight of that class, float[B].

        Its mean over the batch is not divided by the batch's sum of weights, as ``F.cross_entropy(weight=...)`` does:
        then the parts of a batch, of several processes or of --grad-accum-steps, would not add up to the batch.
        """
        losses = self.cross_entropy(logits, labels)
        return losses if self.class_weights is None else self.class_weights[labels] * losses


def known_classes(method: str, network: Network) -> Tensor:
    """The source classes that are outputs of the pretrained classifier, int64[n] on the network's device.

    Raises ValueError, for a method of this name, where there are none.
    """
    matched = network.source_matched
    if matched is not None and matched.any():
        return matched.nonzero().flatten().to(next(network.parameters()).device)
    if network.no_classifier:
        raise ValueError(
            f"weights: {method} needs a pretrained classifier of one layer, and {network.no_classifier}; take weights "
            "with a classifier, another network, or another method"
        )
    raise ValueError(
        f"weights: {method} needs a pretrained classifier that knows the source's classes, and it knows none of them; "
        "leave source out, so that its own classes are taken, and give weights with a classifier"
    )


def contrast_of_one(lam: Tensor) -> Tensor:
    """What a blend of two images has to be multiplied by, so that its pixels have the variance of one image's.

    The images are normalised, so that their mean is about zero, and independent: then the variance of lam times one
    plus 1 - lam times the other is lam^2 + (1 - lam)^2 of theirs. float32[B] for float32[B]; 1 where nothing is mixed.
    """
    return (lam.square() + (1 - lam).square()).rsqrt()


def forget(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Has an optimiser's next step on some parameters be like its first: without momentum, its steps counted anew."""
    for parameter in parameters:
        if optimizer.defaults["fused"]:  # as for CUDA graphs, which read the state where it is; they begin with zeros
            for tensor in optimizer.state.get(parameter, {}).values():
                tensor.zero_()
        else:
            optimizer.state.pop(parameter, None)


def load_state(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    """Copies loaded tensors into the own ones of the same names.

    Raises ValueError where names or shapes differ.
    """
    if loaded.keys() != own.keys():
        differing = sorted(loaded.keys() ^ own.keys())
        raise ValueError(f"state: expected {len(own)} tensors, got {len(loaded)}; not in both: {differing[:3]}")
    for name, tensor in own.items():
        if loaded[name].shape != tensor.shape:
            raise ValueError(f"state: {name}: expected {list(tensor.shape)}, got {list(loaded[name].shape)}")
        tensor.copy_(loaded[name])
