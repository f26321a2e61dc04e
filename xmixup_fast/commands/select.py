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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli import exit_status, parse_settings
from ..runtime.files import write_json
from ..settings.fields import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..data.catalog import Catalog
    from ..data.dataset import BadFile, Dataset
    from ..selection.choice import Selection

GROUPS = ("data", "network and method", "selection of auxiliary images", "machine")
"""Groups of settings that --help shows."""


def run(settings: Settings) -> Selection:
    """Selects as the settings say; prints the table, and writes selection.json and the contact sheet.

    Raises as :func:`xmixup_fast.fit` does.
    """
    from ..report.contact_sheet import contact_sheets
    from ..runtime import distributed
    from ..runtime.device import usable_device
    from ..training.resolve import run_name
    from ..training.source import WantedClasses, fetch_chosen, read_source
    from ..training.target import target_data

    folder = Path(settings.output or Path("runs", run_name("select", settings)))
    if (folder / "selection.json").exists():
        raise FileExistsError(f"output: {folder} already holds a selection; name another folder, or remove it")
    settings = replace(settings, device=usable_device(settings.device))
    target = target_data(settings, _log).dataset
    catalog = WantedClasses.of(settings) if settings.source is None else read_source(settings, _log)
    bad = list(target.bad)
    selection = _select(settings, target, catalog, bad)
    source = fetch_chosen(selection, catalog, settings, _log)
    bad += source.bad
    if distributed.rank() == 0:
        sheets = contact_sheets(selection, target, source, bad)
        _write(folder, _report(settings, selection, (target, source), bad), sheets)
        if isinstance(catalog, WantedClasses):
            print("\n".join(catalog.where(selection, settings)))
    return selection


def _log(text: str) -> None:
    from ..runtime import distributed

    if distributed.rank() == 0:
        print(text, flush=True)


def _select(settings: Settings, target: Dataset, source: Catalog, bad: list[BadFile]) -> Selection:
    """What is selected; files that cannot be decoded are added to ``bad``."""
    import torch

    from ..data.bad_files import list_bad
    from ..data.decoding.choose import make_decoder
    from ..models.build import NoWeights, build
    from ..runtime.device import reproducible
    from ..selection.selector import AuxiliarySelector
    from ..training.ways import ways

    with reproducible(settings.seed, settings.threads):
        try:
            network = build(
                settings.model,
                settings.weights,
                target.classes,
                source_classes=source.classes,
                seed=settings.seed,
                image_size=settings.image_size,
                log=_log,
            )
        except NoWeights as error:
            raise ValueError(f"{error}\n{ways(settings)}") from error
        network.to_device(settings.device)
        threads = torch.get_num_threads()
        decoder = make_decoder(settings.decoder, settings.short_side, torch.device(settings.device), threads, _log)
        chooser = AuxiliarySelector(settings, network, decoder, _log, bad)
        try:
            return chooser.select(chooser.stream(target.train, "target images", bad), target, source)
        except ValueError as error:
            if not bad:
                raise
            raise ValueError(f"{error}\n{list_bad(bad)}") from error


def _report(
    settings: Settings, selection: Selection, datasets: tuple[Dataset, Dataset], bad: Sequence[BadFile]
) -> dict[str, Any]:
    """The content of selection.json, of which the console shows a table."""
    from ..data.bad_files import refuse_bad_files, skipped, to_json
    from ..selection import selector

    target, source = datasets
    bad = refuse_bad_files(bad, settings.bad_files)
    report = selector.report(settings, selection, target, source)
    report["bad_files"] = to_json(bad)
    print(f"{report['how']}: {len(target.classes)} target classes, {len(source.classes)} source classes")
    print("\n".join(selection.lines(target.classes, source)))
    if bad:
        print(f"{skipped(bad)}; selection.json lists them")
    return report


def _write(folder: Path, report: dict[str, Any], sheets: Sequence[Image]) -> None:
    """Writes selection.json and the contact sheets."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, sheet in enumerate(sheets, start=1):
        sheet.save(folder / f"contact-sheet-{number}.png")
    write_json(folder / "selection.json", report)
    print(f"selection.json and {len(sheets)} contact sheet{'s' if len(sheets) > 1 else ''} in {folder}")


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup select") -> int:
    """Runs the command; returns its exit status, 2 for an error that the user can mend."""

    def work() -> None:
        given = sys.argv[1:] if arguments is None else arguments
        settings = parse_settings(given, prog, __doc__, groups=GROUPS)
        from ..runtime import distributed  # needs torch, which --help need not wait for

        with distributed.processes():
            run(settings)

    return exit_status(work)
