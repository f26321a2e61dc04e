"""How much of the source a network still knows: its accuracy on held-out source images, through a source head.

It is what multitask learning is about: where fine-tuning forgets little of the source, training on more of it can add
little.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..data.catalog import Catalog
from ..data.center_crops import center_crop_batches
from ..data.image_store import ImageStore
from ..models.network import Network
from ..ops.image_pool import ImagePool
from ..selection.cache import PassResult, cache_key, cached
from ..settings.fields import Settings
from .head_init import pretrained_network
from .source import read_source


class SourceAccuracy:
    """Measures accuracy on the source's test images or, where it has none, its validation images.

    Methods without a source head are measured with the pretrained classifier's rows on the backbone that they train.

    Args:
        settings: resolved settings.
        network: the network of the run; its target classes are looked at.
        source: the source, where the method has read it already.
        store: decodes the images.
        log: gets lines for the user.

    Raises ValueError where there is no source whose images are here, where it holds none out, and where the pretrained
    classifier does not know all of its classes.
    """

    def __init__(
        self,
        settings: Settings,
        network: Network,
        source: Catalog | None,
        store: ImageStore,
        log: Callable[[str], object],
    ) -> None:
        if settings.source is None:
            raise ValueError("source_accuracy: expected a source to measure on, got none")
        dataset = (source or read_source(settings, log)).local
        samples = [] if dataset is None else dataset.test or dataset.val
        if dataset is None or not samples:
            found = "a source that is elsewhere" if dataset is None else "training images alone"
            raise ValueError(
                f"source_accuracy: {settings.source}: expected a source with test or val images beside train, got "
                f"{found}"
            )
        self.settings = settings
        self.images: ImagePool = store.build(samples, "held-out source images").to(settings.device)
        pretrained = pretrained_network(settings, network.classes, dataset.classes, "source_accuracy")
        assert pretrained.source_head is not None
        self.head = pretrained.source_head
        """The pretrained classifier's rows for the source's classes."""
        names = ("mean", "std", "model_arguments")
        parameters = ["source accuracy", *(getattr(pretrained, name) for name in names), settings.crop_size]
        parameters += [settings.short_side, store.decoder.key, torch.device(settings.device).type]
        self.before = self._before(pretrained, cache_key(pretrained, [samples], parameters))
        """The accuracy before training, in percent."""

    def _before(self, pretrained: Network, key: str) -> float:
        """The accuracy of the pretrained network, from the cache where it has been measured before."""

        def measure() -> PassResult:
            return PassResult({"accuracy": torch.tensor(self._measure(pretrained, self.head), dtype=torch.float64)}, [])

        folder = self.settings.cache_folder
        result = measure() if folder is None else cached(folder, key, measure, lambda bad: True)
        return float(result.tensors["accuracy"])

    def summary(self, network: Network) -> dict[str, float]:
        """What summary.json says of a trained network, in percent."""
        after = self._measure(network, self.head if network.source_head is None else network.source_head)
        return {"source_accuracy_before": round(self.before, 4), "source_accuracy": round(after, 4)}

    @torch.no_grad()
    def _measure(self, network: Network, head: nn.Module) -> float:
        training = network.training
        network.eval()
        form = network.image_format(self.settings.crop_size)
        batches = center_crop_batches(self.images, form, self.settings.batch_size)
        right = sum(int((head(network.features(x)).argmax(1) == labels).sum()) for x, labels in batches)
        network.train(training)
        return 100 * right / len(self.images)
