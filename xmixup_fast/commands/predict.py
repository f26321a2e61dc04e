"""Predict the classes of images with a trained network.

xmixup predict runs/NAME photos/ --output predictions.csv
    with the network of a run, of all images in a folder, at any depth: one line each, with its five likeliest classes

xmixup predict model.safetensors a.jpg b.png --top-k 1
    with the weights that a run left, of two files; CSV on the console

find photos/ -name '*.jpg' | xmixup predict runs/NAME -
    of the files that a program lists; - may be an image, too

xmixup predict runs/NAME @list.txt 'more/*/*.png' table.csv https://example.org/a.jpg
    of files in a list, of a pattern, of the column path of a table, and of a URL

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
from itertools import chain, islice, tee
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, get_args

from ..cli import exit_status, parse_options, require_one_process
from ..data.bad_files import list_bad, printable, said, skipped
from ..data.dataset import BadFile, Findings, Image
from ..runtime.files import atomic_write, check_file_writable, check_replaceable
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


class Stream(Iterator[Prediction | BadFile]):
    """Predictions, which are made as they are asked for."""

    def __init__(self, predictions: Iterator[Prediction | BadFile], classes: int) -> None:
        self._predictions = predictions
        self.classes = classes
        """How many classes a prediction has."""

    def __next__(self) -> Prediction | BadFile:
        return next(self._predictions)


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
) -> Stream:
    """Predicts the classes of images, in their order, as they are asked for.

    Args:
        weights: a run folder, or the model.safetensors of one.
        images: files, folders and whatever else :func:`~xmixup_fast.data.inputs.find_inputs` takes: ``@FILE``, a list
            of names; ``-``, standard input; tables with a column ``path``, URLs, and patterns such as ``a/*.jpg``.
            Images of a folder are found at any depth, in sorted order; names that begin with a dot, and what operating
            systems leave, are ignored there, and links are followed.
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
    names = [images] if isinstance(images, str | os.PathLike) else images
    return Stream(_predictions(names, decode, classifier, batch_size, bad_files), classifier.top_k)


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
    names: Iterable[str | os.PathLike[str]],
    decode: Callable[[Iterable[Image]], Iterator[Tensor | BadFile]],
    classifier: _Classifier,
    batch_size: int,
    policy: Policy,
) -> Iterator[Prediction | BadFile]:
    walked: list[BadFile] = []  # found to be bad on the way to the images
    images, again = tee(_find(names, walked))
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
            files, pixels = zip(*good, strict=True)
            yield from map(Prediction, files, classifier(files, pixels))
    if refused:
        raise ValueError(list_bad(refused, "predicts the others"))
    if empty:
        raise ValueError("images: expected files, or folders that hold some, found none")


def _find(names: Iterable[str | os.PathLike[str]], bad: list[BadFile]) -> Iterator[Image]:
    """The images that are named; what cannot be used is added to ``bad``, and what is no image is counted."""
    from ..data.inputs import find_inputs
    from ..data.understood import found

    ignored: dict[tuple[str, str], int] = {}
    yield from find_inputs(names, bad, ignored)
    for line in found(Findings(ignored)):
        _complain(line)


def write(predictions: Iterable[Prediction | BadFile], classes: int, output: Path | None) -> tuple[int, list[BadFile]]:
    """Writes predictions as they come, to a .csv or .jsonl file that appears when it is whole, or as CSV to stdout.

    CSV has a header, of ``classes`` classes a prediction, also where no image can be predicted.

    Returns how many there were, and the bad files among them, which are not in the file. Raises OSError where the file
    cannot be written.
    """
    is_csv = output is None or output.suffix == ".csv"
    count, bad = 0, []
    with _opened(output) as file:
        has_header = not is_csv
        for item in chain(predictions, [None]):  # the header comes late, so that an error has an empty output
            if not has_header:
                has_header = True
                _write_row(file, _header(classes))
            if isinstance(item, BadFile):
                bad.append(item)
            elif item is not None:
                _write_row(file, _cells(item)) if is_csv else _write_json(file, item)
                count += 1
    return count, bad


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[str]]:
    if output is None:
        yield sys.stdout
        return
    try:
        with atomic_write(output) as aside, aside.open("w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        if error.filename is not None or error.errno is None:  # of an image, or of the weights
            raise
        raise OSError(f"output: {output}: {error.strerror}") from error


def _write_row(file: IO[str], cells: Sequence[str]) -> None:
    csv.writer(file, lineterminator="\n").writerow(cells)


def _header(classes: int) -> list[str]:
    """The columns of a CSV file whose predictions have so many classes."""
    more = [name for rank in range(2, classes + 1) for name in (f"class_{rank}", f"probability_{rank}")]
    return ["file", "class", "description", "probability", *more]


def _cells(prediction: Prediction) -> list[str]:
    """A row of a CSV file."""
    best, *others = prediction.top
    rest = [cell for choice in others for cell in (choice.name, f"{choice.probability:.{DIGITS}f}")]
    cells = [prediction.file, best.name, best.description, f"{best.probability:.{DIGITS}f}", *rest]
    return list(map(printable, cells))


def _write_json(file: IO[str], prediction: Prediction) -> None:
    """A line with file, class, description, probability, and a list of all as top."""
    top = [
        {"class": choice.name, "description": choice.description, "probability": round(choice.probability, DIGITS)}
        for choice in prediction.top
    ]
    line = json.dumps({"file": printable(prediction.file), **top[0], "top": top}, ensure_ascii=False)
    file.write(printable(line) + "\n")


def _complain(text: str) -> None:
    """One line on stderr, as stdout may be a table."""
    print(printable(text), file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to predict, and how."""

    weights: str
    """A run folder, or the model.safetensors of one."""
    images: list[str]
    """Images; folders are searched at any depth. @FILE is a list of names, - standard input: an image, or a list.
    Tables (.csv, .tsv, .parquet) with a column path, URLs and quoted patterns ('a/*.jpg') are taken, too."""
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
    if output is not None:
        check_file_writable(output)
        if not output.parent.is_dir():
            raise ValueError(f"output: {output.parent}: no such folder")
        check_replaceable(output, ",".join(_header(1)) if output.suffix == ".csv" else '{"file": ', "predictions")
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
    count, bad = write(shown, predictions.classes, output)
    for item in bad:
        _complain(said(item))
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
