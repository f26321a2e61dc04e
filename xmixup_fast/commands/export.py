"""Export a trained network for use elsewhere.

xmixup export runs/NAME --format safetensors torch onnx --output exported/
    model.safetensors (for timm), model.pt2 (torch.export) and model.onnx, the latter two for batches of any size

xmixup export runs/NAME --format onnx --output exported/ --with-preprocessing
    a graph that takes uint8[B, H, W, 3] crops as they are decoded, and normalises them itself

xmixup export runs/NAME --format onnx --output exported/ --calibrated
    a graph that divides its logits by the temperature that training fitted, for calibrated probabilities

Each file is read again and its outputs are compared with the network's; where they differ, there is no file. The
preprocessing is stored in it, as texts by name: classes, mean, std, image_size, resize, interpolation, input, and
steps, a list in words of all that has to be done to a photo. They are metadata of safetensors and ONNX files, and
"preprocessing.json" among the extra files of torch.export.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..cli import exit_status, parse_options, require_one_process
from ..runtime.files import atomic_write, check_writable, folder_aside

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..models.network import Network
    from ..models.trained import Preprocessing

Run = Callable[["Tensor"], "Tensor"]
"""Gives logits, float[B, K], for a batch of inputs."""

TOLERANCE = 1e-4
"""Largest difference of two logits that is taken for rounding, relative to the largest logit of the batch."""
SMALLEST = 1e-6
"""The largest logit is taken to be no smaller."""
BATCH_SIZES = (1, 2, 5)
"""Of the batches whose outputs are compared. Programs are traced with none of them."""
TRACED_BATCH = 3
CALIBRATE = "as the weights give them; divide them by the temperature for calibrated probabilities"
EXPORT_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass
class Exporter:
    """Writes one trained network in several formats."""

    network: Network
    preprocessing: Preprocessing
    with_preprocessing: bool = False
    """Whether programs take bytes."""
    temperature: float | None = None
    """The network's; None where it has none."""
    calibrated: bool = False
    """Whether programs divide logits by it."""

    def metadata(self, program: bool) -> dict[str, str]:
        """What is stored with a program, or else with weights alone, which take normalised crops."""
        as_bytes = program and self.with_preprocessing
        size = self.preprocessing.image_size
        crops, normalised = f"uint8[B, {size}, {size}, 3]", f"float32[B, 3, {size}, {size}], normalised"
        return {
            "model": self.network.model_name,
            **self.preprocessing.metadata(),
            "input": crops if as_bytes else normalised,
            "steps": json.dumps(_steps(self.preprocessing, as_bytes)),
            **self._temperature(program),
        }

    def _temperature(self, program: bool) -> dict[str, str]:
        """What the metadata say of the temperature."""
        if self.temperature is None:
            return {}
        done = "divided by the temperature" if program and self.calibrated else CALIBRATE
        return {"temperature": str(self.temperature), "logits": done}

    @cached_property
    def module(self) -> nn.Module:
        """What becomes a program."""
        return self._wrapped(self.network)

    def _wrapped(self, network: Network) -> nn.Module:
        """A network as it is asked for: it takes bytes, and divides its logits."""
        from ..models.trained import Calibrated, WithPreprocessing

        module: nn.Module = network.body
        if self.with_preprocessing:
            module = WithPreprocessing(module, self.preprocessing.mean, self.preprocessing.std)
        if self.calibrated and self.temperature is not None:
            module = Calibrated(module, self.temperature)
        return module.eval()

    def inputs(self, batch: int) -> Tensor:
        """Random images, as the programs take them."""
        import torch

        size = self.preprocessing.image_size
        generator = torch.Generator().manual_seed(batch)
        if self.with_preprocessing:
            return torch.randint(256, (batch, size, size, 3), dtype=torch.uint8, generator=generator)
        return torch.randn(batch, 3, size, size, generator=generator)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The module, traced."""
        import torch

        shapes = ({0: torch.export.Dim("batch")},)
        with torch.no_grad():
            return torch.export.export(self.module, (self.inputs(TRACED_BATCH),), dynamic_shapes=shapes)

    def write_safetensors(self, path: Path) -> Run:
        """Writes model.safetensors; returns the network of that file."""
        from safetensors import safe_open

        from ..models.trained import load_network, save
        from ..runtime.tensor_files import write_tensors

        resize = self.preprocessing.resize
        save(self.network, path, self.preprocessing.image_size, "full" if resize is None else resize)
        with safe_open(path, "pt") as file:
            stored = file.metadata()
        write_tensors(path, self.network.body.state_dict(), {**stored, **self.metadata(program=False)})
        network, _ = load_network(path)
        return self._wrapped(network)

    def write_torch(self, path: Path) -> Run:
        """Writes a program of torch.export; returns that of the file."""
        import torch

        torch.export.save(
            self.program, path, extra_files={"preprocessing.json": json.dumps(self.metadata(program=True))}
        )
        return torch.export.load(path).module()

    def write_onnx(self, path: Path) -> Run:
        """Writes an ONNX model; returns that of the file, as onnxruntime runs it on the CPU."""
        import onnxruntime
        import torch

        from ..runtime.device import default_threads

        program = torch.onnx.export(
            self.program, input_names=["images"], output_names=["logits"], dynamo=True, verbose=False
        )
        assert program is not None
        program.model.metadata_props.update(self.metadata(program=True))
        program.save(path, external_data=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = default_threads()  # it has threads of its own, by default one for each core
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    def expected(self, images: Tensor) -> Tensor:
        """The network's logits of random images, normalised as in evaluation where they are bytes."""
        from ..data.center_crops import center_crop_batches
        from ..ops.image_pool import ImagePool

        if self.with_preprocessing:
            pool = ImagePool.from_dense(images)
            form = self.network.image_format(self.preprocessing.image_size)
            ((images, _),) = center_crop_batches(pool, form, len(images))
        logits: Tensor = self.network(images)
        return logits / self.temperature if self.calibrated and self.temperature is not None else logits

    def difference(self, run: Run) -> float:
        """The largest difference of a written model's logits from the network's, relative to the largest logit.

        Raises ValueError where a model's output has another shape.
        """
        import torch

        differences = []
        for batch in BATCH_SIZES:
            images = self.inputs(batch)
            with torch.no_grad():
                expected, got = self.expected(images), run(images)
            if expected.shape != got.shape:
                raise ValueError(f"expected {list(expected.shape)} logits, got {list(got.shape)}")
            differences.append((got - expected).abs().max() / expected.abs().max().clamp(min=SMALLEST))
        return torch.stack(differences).max().item()


def _steps(preprocessing: Preprocessing, as_bytes: bool) -> list[str]:
    """What has to be done to an image file, in this order, to make the input of a network."""
    size, short_side = preprocessing.image_size, preprocessing.resize
    resize = f"resize the short side to {short_side} pixels, {preprocessing.metadata()['interpolation']}, as uint8"
    return [
        "turn the image upright as its EXIF orientation says",
        "convert it to RGB: no transparency, the first page or frame, the upper byte of 16-bit samples",
        *([] if short_side is None else [resize]),
        f"crop the middle {size} x {size} pixels",
        *([] if as_bytes else ["divide by 255, subtract mean, and divide by std"]),
    ]


FORMATS = {"safetensors": ".safetensors", "torch": ".pt2", "onnx": ".onnx"}
"""What a network can be exported as, and the suffixes of the files."""


def export(
    weights: str | os.PathLike[str],
    formats: Sequence[str],
    output: str | os.PathLike[str],
    with_preprocessing: bool = False,
    calibrated: bool = False,
) -> dict[str, float]:
    """Writes a trained network in some formats to the folder ``output``, and reads and compares each.

    Args:
        weights: a run folder, or the model.safetensors of one.
        formats: of safetensors, torch, onnx; the files are model.safetensors, model.pt2 and model.onnx.
        output: the folder, which is made if need be. None of the files may be there.
        with_preprocessing: programs (torch, onnx) take uint8[B, H, W, 3] crops, not normalised float32[B, 3, H, W].
        calibrated: programs divide logits by the temperature that training fitted. Weights alone (safetensors) stay as
            they are; their metadata name the temperature.

    Returns the largest difference from the network's logits for each format, relative to the largest logit.

    Raises ValueError for an unknown format, a missing package, weights that cannot be used, a network that cannot be
    exported, or outputs that differ; FileExistsError where there is such a file. A format that fails leaves no file.
    """
    from ..models.trained import load, needed_temperature, temperature_of

    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"format: expected some of {', '.join(FORMATS)}, got {', '.join(unknown) or 'none'}")
    missing = [name for name in EXPORT_PACKAGES if find_spec(name) is None] if "onnx" in formats else []
    if missing:
        raise ValueError(f"format: onnx needs {', '.join(missing)}; pip install {' '.join(missing)}")
    folder = Path(output)
    paths = {name: folder / f"model{FORMATS[name]}" for name in dict.fromkeys(formats)}
    check_writable(folder)
    for path in paths.values():
        if path.exists():
            raise FileExistsError(f"output: {path} is there already; name another folder, or remove it")
    network, preprocessing = load(weights)
    temperature = needed_temperature(weights) if calibrated else temperature_of(weights)
    exporter = Exporter(network, preprocessing, with_preprocessing, temperature, calibrated)
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _write(exporter, name, path) for name, path in paths.items()}


def _write(exporter: Exporter, name: str, path: Path) -> float:
    """Writes one file aside, compares it, and gives it its name. Returns the difference."""
    write: Callable[[Path], Run] = getattr(exporter, f"write_{name}")
    with folder_aside(path.parent, ".export-") as folder:
        aside = folder / path.name
        try:
            difference: float = exporter.difference(write(aside))
        except OSError:
            raise
        except Exception as error:  # exporters raise anything where they do not know an operation
            model, reason = exporter.network.model_name, str(error).split("\n")[0] or type(error).__name__
            raise ValueError(f"format: {name} fails for {model}: {reason}") from error
        if not difference <= TOLERANCE:
            raise ValueError(
                f"format: {name}: logits differ from the network's by {difference:.1e} of the largest logit, more than "
                f"{TOLERANCE:.0e}; the file is not kept"
            )
        with atomic_write(path) as place:
            os.replace(aside, place)
    return difference


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to export, and how."""

    weights: str
    """A run folder, or the model.safetensors of one."""
    format: list[Literal["safetensors", "torch", "onnx"]]
    """What to write."""
    output: str
    """The folder to write to."""
    with_preprocessing: bool = False
    """Programs (torch, onnx) take bytes, and normalise them."""
    calibrated: bool = False
    """Programs (torch, onnx) divide logits by the temperature that training fitted, for calibrated probabilities."""


def run(options: Options) -> None:
    """Exports as the options say, and prints a line for each file. Raises as :func:`export` does."""
    require_one_process()
    differences = export(
        options.weights, options.format, options.output, options.with_preprocessing, options.calibrated
    )
    for name, difference in differences.items():
        path = Path(options.output, f"model{FORMATS[name]}")
        print(
            f"{path}: {path.stat().st_size / 2**20:.1f} MiB, logits as the network's in batches of "
            f"{', '.join(map(str, BATCH_SIZES))}: within {difference:.1e} of the largest (allowed: {TOLERANCE:.0e})"
        )


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup export") -> int:
    """Runs the command; returns its exit status, 2 for an error that the user can mend."""

    def work() -> None:
        given = sys.argv[1:] if arguments is None else arguments
        run(parse_options(Options, given, prog, __doc__, positional={"weights": "RUN_OR_WEIGHTS"}))

    return exit_status(work)
