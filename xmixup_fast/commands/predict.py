"""Predict the classes of images with a trained network.

xmixup predict runs/NAME photos/ --output predictions.csv
    with the network of a run, of all images in a folder, at any depth: one line each, with its five likeliest classes

xmixup predict model.safetensors a.jpg b.png --top-k 1
    with the weights that a run left, of two files; CSV on the console

xmixup predict runs/NAME photos/ --output predictions.jsonl --bad-files skip
    JSON lines; files that cannot be used are named on the console and left out

xmixup predict runs/NAME photos/ --output predictions.csv --calibrated --tta flip
    probabilities by the temperature that training fitted, and of each image and its mirror image together

Images are decoded, resized and cropped as a run's test images are. Memory is needed for a few batches, however many
images there are.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, get_args

from ..cli import exit_status, parse_options, require_one_process
from ..data.bad_files import list_bad, printable, skipped
from ..data.dataset import BadFile, FileImage, Findings, Image
from ..data.readers.folder import find_images
from ..runtime.files import atomic_write
from ..settings.values import expanded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..models.network import Network
    from ..models.trained import Preprocessing

Policy = Literal["error", "skip"]
Augmentation = Literal["none", "flip"]
DecoderName = Literal["auto", "dali", "torchcodec", "torchvision", "pillow"]

SUFFIXES = (".csv", ".jsonl")
"""Of the files that predictions are written to."""
DIGITS = 6
"""Of a probability that is written, behind the point."""


class Choice(NamedTuple):
    """A class, and how probable it is."""

    name: str
    description: str
    """The name with its meaning, where it is the WordNet id of an ImageNet class; otherwise the name alone."""
    probability: float


class Prediction(NamedTuple):
    """The likeliest classes of an image, the most probable first."""

    file: str
    top: list[Choice]


def predict(
    weights: str | os.PathLike[str],
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    top_k: int = 5,
    batch_size: int = 64,
    bad_files: Policy = "error",
    device: str = "auto",
    decoder: DecoderName = "auto",
    tta: Augmentation = "none",
    calibrated: bool = False,
) -> Iterator[Prediction | BadFile]:
    """Predicts the classes of images, in their order, as they are asked for.

    Args:
        weights: a run folder, or the model.safetensors of one.
        images: files and folders. Images of a folder are found at any depth, in sorted order; names that begin with a
            dot, and what operating systems leave, are ignored there, and links are followed.
        top_k: how many classes of each image; all where there are fewer.
        batch_size: images that go through the network at once. Another one may change a probability's last digits.
        bad_files: what to do about files that cannot be used. ``error``: after the first one nothing more is predicted,
            and once all files have been looked at a ValueError names the bad ones. ``skip``: they come as ``BadFile``
            among the predictions.
        device: cpu, cuda or cuda:1; auto takes a GPU where there is one.
        decoder: what decodes JPEG files; auto takes the first of dali, torchcodec, torchvision and pillow that is
            installed.
        tta: ``flip``: the mean probabilities of an image and its mirror image.
        calibrated: divide logits by the temperature that training fitted, for probabilities that are as often right as
            they say.

    Raises ValueError and FileNotFoundError, at once, for arguments and weights that cannot be used; ValueError where
    there are no images, or the network's outputs are not finite.
    """
    import torch

    from ..data.decoding.choose import make_decoder
    from ..data.decoding.reading import Reading
    from ..models.trained import load, needed_temperature
    from ..runtime.device import current_device, default_threads, usable_device

    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    if bad_files not in get_args(Policy):
        raise ValueError(f"bad_files: expected error or skip, got {bad_files!r}")
    if tta not in get_args(Augmentation):
        raise ValueError(f"tta: expected none or flip, got {tta!r}")
    place = torch.device(usable_device(device))
    weights = expanded("weights", os.fspath(weights))
    network, preprocessing = load(weights)
    temperature = needed_temperature(weights) if calibrated else 1.0
    with current_device(place):
        classifier = _Classifier(network, preprocessing, top_k, place, flip=tta == "flip", temperature=temperature)
        reading, threads = Reading.of(**preprocessing.reading), default_threads()
        decode = make_decoder(decoder, preprocessing.resize, place, threads, _complain, reading=reading).decode
    paths = [images] if isinstance(images, str | os.PathLike) else images
    return _predictions(paths, decode, classifier, batch_size, bad_files)


class _Classifier:
    """A network that looks at decoded images just as evaluation does."""

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        top_k: int,
        device: torch.device,
        *,
        flip: bool,
        temperature: float,
    ) -> None:
        from ..models.class_names import readable_name
        from ..ops.image_format import OutputBuffers

        self.network = network.to_device(device)
        self.preprocessing = preprocessing
        self.top_k = min(top_k, len(preprocessing.classes))
        self.device = device
        self.classes = preprocessing.classes
        self.meanings = list(map(readable_name, self.classes))
        self.form = self.network.image_format(preprocessing.image_size)
        self.buffers = OutputBuffers()
        self.flip, self.temperature = flip, temperature

    def __call__(self, names: Sequence[str], images: Sequence[Tensor]) -> list[list[Choice]]:
        """The likeliest classes of each image, uint8[H, W, 3].

        Raises ValueError, with the name of an image, where the network's outputs for it are not finite.
        """
        import torch

        from ..data.center_crops import center_crop_batches
        from ..evaluation import averaged, logits_are_finite
        from ..models.finite import not_finite
        from ..ops.image_pool import ImagePool
        from ..runtime.device import current_device, own_defaults

        # Here, since callers go on between two predictions.
        with current_device(self.device), own_defaults(), torch.no_grad():
            pool = ImagePool.from_images(images).to(self.device)
            ((batch, _),) = center_crop_batches(pool, self.form, len(images), buffers=self.buffers, flip=self.flip)
            logits = self.network(batch).float() / self.temperature
            finite = logits_are_finite(logits, len(images)).tolist()
            top = averaged(logits, len(images)).softmax(1).topk(self.top_k)
        if not all(finite):
            raise not_finite(self.network, "outputs", names[finite.index(False)])
        rows = zip(top.values.tolist(), top.indices.tolist(), strict=True)
        return [[Choice(self.classes[i], self.meanings[i], p) for p, i in zip(*row, strict=True)] for row in rows]

    def fault(self, name: str, image: Tensor) -> BadFile | None:
        """Why an image cannot be cropped; None where it can."""
        height, width, size = *image.shape[:2], self.preprocessing.image_size
        if min(height, width) >= size:
            return None
        return BadFile(
            name,
            f"{width} x {height} pixels, less than the network's {size} x {size}, and the network was trained "
            f"with --resize full: scale it up, or train with --resize {round(size * 8 / 7)}",
        )


def _predictions(
    paths: Iterable[str | os.PathLike[str]],
    decode: Callable[[Iterable[Image]], Iterator[Tensor | BadFile]],
    classifier: _Classifier,
    batch_size: int,
    policy: Policy,
) -> Iterator[Prediction | BadFile]:
    walked: list[BadFile] = []  # found to be bad on the way to the images
    images, again = tee(_find(paths, walked))
    results = zip(images, decode(again), strict=True)
    refused: list[BadFile] = []
    empty = True
    while (part := list(islice(results, batch_size))) or walked:
        empty = False
        bad, good = [*walked], []
        walked.clear()
        for image, result in part:
            fault = result if isinstance(result, BadFile) else classifier.fault(image.name, result)
            if fault:
                bad.append(fault)
            else:
                good.append((image.name, result))
        if policy == "skip":
            yield from bad
        else:
            refused += bad
        if good and not refused:
            names, pixels = zip(*good, strict=True)
            yield from map(Prediction, names, classifier(names, pixels))
    if refused:
        raise ValueError(list_bad(refused, "predicts the others"))
    if empty:
        raise ValueError("images: expected files, or folders that hold some, found none")


def _find(paths: Iterable[str | os.PathLike[str]], bad: list[BadFile]) -> Iterator[Image]:
    """The images of files and folders; what cannot be used is added to ``bad``, and what is no image is counted."""
    from ..data.understood import found

    ignored: dict[tuple[str, str], int] = {}
    for path in (Path(expanded("images", os.fspath(one))) for one in paths):
        if path.is_dir():
            yield from find_images(path, bad, ignored)
        elif path.is_file():
            yield FileImage(path)
        else:
            bad.append(BadFile(str(path), "not a file or folder" if path.exists() else "no such file or folder"))
    for line in found(Findings(ignored)):
        _complain(line)


def write(predictions: Iterable[Prediction | BadFile], output: Path | None) -> tuple[int, list[BadFile]]:
    """Writes predictions as they come, to a .csv or .jsonl file that appears when it is whole, or as CSV to stdout.

    Returns how many there were, and the bad files among them, which are not in the file. Raises OSError where the file
    cannot be written.
    """
    add_row = _json_row if output is not None and output.suffix == ".jsonl" else _csv_row
    count, bad = 0, []
    with _opened(output) as file:
        for item in predictions:
            if isinstance(item, BadFile):
                bad.append(item)
            else:
                add_row(file, item, first=count == 0)
                count += 1
    return count, bad


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[str]]:
    if output is None:
        yield sys.stdout
        return
    with atomic_write(output) as aside, aside.open("w", encoding="utf-8") as file:
        yield file


def _csv_row(file: IO[str], prediction: Prediction, first: bool) -> None:
    """A line of file, class, description, probability, class_2, probability_2 and so on; a header before the first."""
    writer = csv.writer(file, lineterminator="\n")
    if first:
        more = range(2, len(prediction.top) + 1)
        header = [name for rank in more for name in (f"class_{rank}", f"probability_{rank}")]
        writer.writerow(["file", "class", "description", "probability", *header])
    best, *others = prediction.top
    rest = [cell for choice in others for cell in (choice.name, _spell(choice.probability))]
    name = printable(prediction.file)
    writer.writerow([name, best.name, best.description, _spell(best.probability), *rest])


def _json_row(file: IO[str], prediction: Prediction, first: bool) -> None:
    """A line with file, class, description, probability, and a list of all as top."""
    top = [
        {"class": choice.name, "description": choice.description, "probability": round(choice.probability, DIGITS)}
        for choice in prediction.top
    ]
    file.write(json.dumps({"file": printable(prediction.file), **top[0], "top": top}, ensure_ascii=False) + "\n")


def _spell(probability: float) -> str:
    return f"{probability:.{DIGITS}f}"


def _complain(text: str) -> None:
    """One line on stderr, as stdout may be a table."""
    print(printable(text), file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to predict, and how."""

    weights: str
    """A run folder, or the model.safetensors of one."""
    images: list[str]
    """Images; folders are searched at any depth."""
    output: str | None = None
    """A file named .csv or .jsonl; CSV goes to stdout if not given."""
    top_k: int = 5
    """Classes of each image."""
    batch_size: int = 64
    """Images at a time."""
    bad_files: Policy = "error"
    """What to do about files that cannot be used: stop and list them, or list them and go on."""
    device: str = "auto"
    """cpu, cuda or cuda:1; auto takes a GPU where there is one."""
    decoder: DecoderName = "auto"
    """What decodes JPEG files; auto takes the first of these that is installed."""
    tta: Augmentation = "none"
    """Test-time augmentation: predict from an image alone, or by the mean probabilities of it and its mirror image."""
    calibrated: bool = False
    """Divide logits by the temperature that training fitted: probabilities are about as often right as they say."""


def run(options: Options) -> None:
    """Predicts as the options say. Raises as :func:`predict` does, and ValueError and OSError for the output."""
    from ..runtime.progress import progress

    require_one_process()
    output = None if options.output is None else Path(options.output)
    if output is not None and output.suffix not in SUFFIXES:
        raise ValueError(f"output: expected a file named {' or '.join(SUFFIXES)}, got {output}")
    if output is not None and not output.parent.is_dir():
        raise ValueError(f"output: {output.parent}: no such folder")
    predictions = predict(
        options.weights,
        options.images,
        top_k=options.top_k,
        batch_size=options.batch_size,
        bad_files=options.bad_files,
        device=options.device,
        decoder=options.decoder,
        tta=options.tta,
        calibrated=options.calibrated,
    )
    shown = progress(predictions, None, "predicting", hidden=output is None)
    count, bad = write(shown, output)
    for item in bad:
        _complain(f"{item.name}: {item.reason}")
    if bad:
        _complain(skipped(bad))
    if output is not None:
        print(f"{count} image{'s' * (count != 1)} predicted: {output}")


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup predict") -> int:
    """Runs the command; returns its exit status, 2 for an error that the user can mend."""

    def work() -> None:
        given = sys.argv[1:] if arguments is None else arguments
        positional = {"weights": "RUN_OR_WEIGHTS", "images": "FILE_OR_FOLDER"}
        run(parse_options(Options, given, prog, __doc__, positional=positional, metavars={"output": "FILE"}))

    return exit_status(work)
