"""Show what selection chooses for each target class, without training.

xmixup select photos/
    needs no source: prints the ImageNet classes that the pretrained network sees in each target class, and which
    sources that go by a name have them

xmixup select photos/ --source imagenet/train/ --selection prediction --top-k 3
    prints the table; writes selection.json, and contact-sheet-1.png ...: target images beside their auxiliary ones

xmixup select --config runs/NAME/config.yaml --selection feature --output runs/chosen
    for the target, source, network and splits of a run, another strategy

torchrun --nproc-per-node 4 -m xmixup_fast select photos/ ...
    several processes share the images

xmixup train --selection-file runs/chosen/selection.json ...
    trains with what was chosen

All settings of training are understood, so that a run's config.yaml can be given; those for training alone change
nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli import exit_status, parse_settings
from ..runtime.files import atomic_write, write_json
from ..settings.fields import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..data.catalog import Catalog
    from ..data.dataset import BadFile, Dataset
    from ..models.network import Network
    from ..report.results import SelectionResult
    from ..selection.choice import Selection

GROUPS = ("data", "network and method", "selection of auxiliary images", "machine")
"""Groups of settings that --help shows."""


def run(settings: Settings, log: Callable[[str], object] = print) -> SelectionResult:
    """Selects as the settings say, and logs the table; writes selection.json and contact sheets to a given ``output``.

    In processes but the first, nothing is logged or written. Raises as :func:`xmixup_fast.fit` does.
    """
    from ..runtime import distributed
    from ..runtime.claims import owned_output

    folder = None if settings.output is None else Path(settings.output)
    first = distributed.rank() == 0
    log = log if first else _silent
    with owned_output(folder if first else None, log):
        if folder is not None and (folder / "selection.json").exists():
            raise FileExistsError(f"output: {folder} already holds a selection; name another folder, or remove it")
        return _run(settings, folder, log)


def _run(settings: Settings, folder: Path | None, log: Callable[[str], object]) -> SelectionResult:
    """Selects, and writes to a folder that this process owns."""
    from ..report.contact_sheet import contact_sheets
    from ..report.results import SelectionResult
    from ..runtime import distributed
    from ..runtime.device import usable_device
    from ..training.resolve import with_image_size
    from ..training.source import WantedClasses, fetch_chosen, read_source
    from ..training.target import target_data

    settings = with_image_size(replace(settings, device=usable_device(settings.device)))
    target = target_data(settings, log).dataset
    catalog = WantedClasses.of(settings) if settings.source is None else read_source(settings, log)
    bad = list(target.bad)
    selection, network = _select(settings, (target, catalog), bad, log)
    source = fetch_chosen(selection, catalog, settings, log)
    bad += source.bad
    sheets = contact_sheets(selection, target, source, bad) if distributed.rank() == 0 else []
    report = _report(settings, selection, (target, source), bad, log)
    if folder is not None and distributed.rank() == 0:
        _write(folder, report, sheets, log)
    if isinstance(catalog, WantedClasses):
        log("\n".join(catalog.where(selection, settings)))
    outputs = {name: output for output, name in enumerate(network.classifier_classes)}
    return SelectionResult(selection, target, source, report, sheets, outputs, folder)


def _silent(text: str) -> None:
    """Takes lines of processes but the first."""


def _select(
    settings: Settings, datasets: tuple[Dataset, Catalog], bad: list[BadFile], log: Callable[[str], object]
) -> tuple[Selection, Network]:
    """What is selected, and the network that was used; files that cannot be decoded are added to ``bad``."""
    import torch

    from ..data.bad_files import list_bad
    from ..data.decoding.choose import make_decoder
    from ..data.decoding.reading import Reading
    from ..models.build import NoWeights, build
    from ..runtime.device import current_device, reproducible
    from ..selection.selector import AuxiliarySelector
    from ..training.ways import ways

    target, source = datasets
    with current_device(settings.device), reproducible(settings.seed, settings.threads):
        try:
            network = build(
                settings.model,
                settings.weights,
                target.classes,
                source_classes=source.classes,
                seed=settings.seed,
                image_size=settings.crop_size,
                model_args=settings.model_args,
                weights_classes=settings.weights_classes,
                log=log,
            )
        except NoWeights as error:
            raise ValueError(f"{error}\n{ways(settings)}") from error
        network.to_device(settings.device)
        threads = torch.get_num_threads()
        device, reading = torch.device(settings.device), Reading.of(**settings.reading)
        decoder = make_decoder(settings.decoder, settings.short_side, device, threads, log, reading=reading)
        chooser = AuxiliarySelector(settings, network, decoder, log, bad)
        try:
            return chooser.select(chooser.stream(target.train, "target images", bad), target, source), network
        except ValueError as error:
            if not bad:
                raise
            raise ValueError(f"{error}\n{list_bad(bad)}") from error


def _report(
    settings: Settings,
    selection: Selection,
    datasets: tuple[Dataset, Dataset],
    bad: Sequence[BadFile],
    log: Callable[[str], object],
) -> dict[str, Any]:
    """The content of selection.json, of which the log shows a table."""
    from ..data.bad_files import refuse_bad_files, skipped, to_json
    from ..selection import selector

    target, source = datasets
    bad = refuse_bad_files(bad, settings.bad_files)
    report = selector.report(settings, selection, target, source)
    report["bad_files"] = to_json(bad)
    log(f"{report['how']}: {len(target.classes)} target classes, {len(source.classes)} source classes")
    log("\n".join(selection.lines(target.classes, source)))
    if bad:
        log(f"{skipped(bad)}; {'selection.json' if settings.output else '.report'} lists them")
    return report


def _write(folder: Path, report: dict[str, Any], sheets: Sequence[Image], log: Callable[[str], object]) -> None:
    """Writes selection.json and the contact sheets."""
    for number, sheet in enumerate(sheets, start=1):
        with atomic_write(folder / f"contact-sheet-{number}.png") as aside:
            sheet.save(aside, "PNG")
    write_json(folder / "selection.json", report)
    log(f"selection.json and {len(sheets)} contact sheet{'s' if len(sheets) > 1 else ''} in {folder}")


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup select") -> int:
    """Runs the command; returns its exit status, 2 for an error that the user can mend."""

    def work() -> None:
        given = sys.argv[1:] if arguments is None else arguments
        settings = parse_settings(given, prog, __doc__, groups=GROUPS)
        from ..runtime import distributed  # needs torch, which --help need not wait for
        from ..training.resolve import run_name

        with distributed.processes():
            output = settings.output or str(Path("runs", run_name("select", settings)))
            run(replace(settings, output=output), partial(print, flush=True))

    return exit_status(work)
