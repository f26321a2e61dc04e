"""Selection: which source classes help which target class, decided once, before training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .models import Network


@dataclass(frozen=True, eq=False)
class Selection:
    """The source classes of each target class, best first."""

    classes: Tensor
    """int64[K_t, k]: positions among the source classes, distinct in a row."""
    scores: Tensor | None
    """float64[K_t, k]: the mean predicted probability of each; None where nothing was predicted."""

    def to_json(self, target_classes: Sequence[str], source_classes: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """By target class's name, the list of its source classes: name and, where there is one, score."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for row, target in enumerate(target_classes):
            rows[target] = [{"class": source_classes[i]} for i in self.classes[row].tolist()]
            if self.scores is not None:
                for entry, score in zip(rows[target], self.scores[row].tolist(), strict=True):
                    entry["score"] = round(score, 6)
        return rows


def by_prediction(
    network: Network, images: Iterable[tuple[Tensor, Tensor]], num_target_classes: int, top_k: int
) -> Selection:
    """The source classes that the pretrained classifier sees in the images of each target class.

    P[j, i] is the mean over images of target class j of softmax(source head)_i, among the source classes whose row
    comes from the pretrained classifier; each target class takes its ``top_k`` largest. The sums are streamed, so the
    memory is O(classes). ``images`` gives normalised batches with labels, float[B, 3, H, W] and int64[B].

    Raises ValueError where fewer than ``top_k`` source classes are outputs of the pretrained classifier.
    """
    matched = network.source_matched
    found = 0 if matched is None else int(matched.sum())
    if matched is None or found < top_k:
        raise ValueError(
            f"selection: prediction needs at least top_k = {top_k} source classes that are outputs of the pretrained "
            f"classifier, and {found} are; name their folders as the classifier does, or use --selection random"
        )
    sums = torch.zeros(num_target_classes, matched.numel(), dtype=torch.float64)
    counts = torch.zeros(num_target_classes, dtype=torch.float64)
    training = network.training
    network.eval()
    with torch.no_grad():
        for batch, labels in images:
            logits = network.source_logits(network.features(batch)).double().cpu()
            probabilities = logits.masked_fill(~matched, -torch.inf).softmax(1)
            sums.index_add_(0, labels.cpu(), probabilities)
            counts += labels.cpu().bincount(minlength=num_target_classes)
    network.train(training)
    means = sums / counts.clamp(min=1).unsqueeze(1)
    # Unmatched classes come last, even where all probabilities underflow to zero; ties go to the first class.
    scores, classes = means.masked_fill(~matched, -1).sort(dim=1, descending=True, stable=True)
    return Selection(classes[:, :top_k].contiguous(), scores[:, :top_k].contiguous())


def at_random(num_target_classes: int, num_source_classes: int, top_k: int, seed: int) -> Selection:
    """``top_k`` distinct source classes for each target class, drawn from ``seed``; the control of every comparison.

    Raises ValueError where there are fewer source classes than ``top_k``.
    """
    if num_source_classes < top_k:
        raise ValueError(f"top_k: expected at most {num_source_classes}, the number of source classes, got {top_k}")
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(num_source_classes, generator=generator)[:top_k] for _ in range(num_target_classes)]
    return Selection(torch.stack(rows), None)
