"""Export a trained network for use elsewhere.

xmixup export runs/NAME --format safetensors torch onnx --output exported/
    model.safetensors with config.json (for timm and the Hugging Face Hub), model.pt2 (torch.export) and model.onnx, the
    latter two for batches of any size

xmixup export runs/NAME --format onnx --output exported/ --with-preprocessing
    a graph that takes uint8[B, H, W, 3] crops as they are decoded, and normalises them itself

xmixup export runs/NAME --format onnx --output exported/ --calibrated
    a graph that divides its logits by the temperature that training fitted, for calibrated probabilities

xmixup export runs/NAME --format torch torchscript --output exported/ --half --dynamic-size
    programs that compute in float16, between images and logits in float32, and take images of any height and width

Each file is read again and its outputs are compared with the network's, for several batches and, with --dynamic-size,
sizes; where they differ, there is no file. The preprocessing is stored in it, as texts by name: classes, mean, std,
image_size, resize, interpolation, input, and steps, a list in words of all that has to be done to a photo. They are
metadata of safetensors and ONNX files, and "preprocessing.json" among the extra files of torch.export and TorchScript.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..cli import exit_status, parse_options, require_one_process
from ..runtime.claims import owned_output
from ..runtime.files import atomic_write, folder_aside
from .exporter import BATCH_SIZES, HALF_TOLERANCE, TOLERANCE, Exporter, Run

EXPORT_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
FORMATS = {"safetensors": ".safetensors", "torch": ".pt2", "torchscript": ".pt", "onnx": ".onnx"}
"""What a network can be exported as, and the suffixes of the files."""
CONVERSIONS = {
    "openvino": "export onnx, then: pip install openvino; ovc model.onnx",
    "tensorrt": "export onnx, then: trtexec --onnx=model.onnx --saveEngine=model.engine",
    "tflite": "export onnx, then: pip install onnx2tf; onnx2tf -i model.onnx",
    "tensorflow": "export onnx, then: pip install onnx2tf; onnx2tf -i model.onnx",
    "coreml": "export onnx, which onnxruntime runs with its CoreMLExecutionProvider; or torchscript, then in Python: "
    "coremltools.convert(torch.jit.load('model.pt'), inputs=[coremltools.TensorType(shape=...)])",
    "ncnn": "export onnx, then: pip install pnnx; pnnx model.onnx",
}
"""How other tool chains convert what is exported here."""
OTHER_NAMES = {
    **dict.fromkeys(("ir", "xml"), "openvino"),
    **dict.fromkeys(("engine", "trt", "plan"), "tensorrt"),
    **dict.fromkeys(("litert", "tensorflowlite", "edgetpu"), "tflite"),
    **dict.fromkeys(("savedmodel", "pb", "keras", "h5", "tf", "tfjs"), "tensorflow"),
    **dict.fromkeys(("mlmodel", "mlpackage", "mlprogram"), "coreml"),
}
"""What these tool chains and their files are called besides, in lower-case letters and digits."""


def export(
    weights: str | os.PathLike[str],
    formats: Sequence[str],
    output: str | os.PathLike[str],
    *,
    with_preprocessing: bool = False,
    calibrated: bool = False,
    half: bool = False,
    dynamic_size: bool = False,
) -> dict[str, float]:
    """Writes a trained network in some formats to the folder ``output``, and reads and compares each.

    Args:
        weights: a run folder, or the model.safetensors of one.
        formats: of safetensors, torch, torchscript, onnx; the files are model.safetensors with config.json, model.pt2,
            model.pt and model.onnx.
        output: the folder, which is made if need be. None of the files may be there.
        with_preprocessing: programs (torch, torchscript, onnx) take uint8[B, H, W, 3] crops, not normalised
            float32[B, 3, H, W].
        calibrated: programs divide logits by the temperature that training fitted. Weights alone (safetensors) stay as
            they are; their metadata name the temperature.
        half: weights are stored in float16, in which programs compute; images and logits stay float32 (or bytes).
        dynamic_size: programs take images of any height and width, as far as the network does.

    Returns the largest difference from the network's logits for each format, relative to the largest logit.

    Raises ValueError for an unknown format, a missing package, weights that cannot be used, a network that cannot be
    exported, or outputs that differ or are not finite; FileExistsError where there is such a file. A format that fails
    leaves no file.
    """
    from ..models.timm_config import CONFIG, write_config
    from ..models.trained import load, needed_temperature, temperature_of

    _check_formats(formats)
    folder = Path(output)
    paths = {name: folder / f"model{FORMATS[name]}" for name in dict.fromkeys(formats)}
    with owned_output(folder, print):
        for path in [*paths.values(), *([folder / CONFIG] if "safetensors" in paths else [])]:
            if path.exists():
                raise FileExistsError(f"output: {path} is there already; name another folder, or remove it")
        network, preprocessing = load(weights)
        temperature = needed_temperature(weights) if calibrated else temperature_of(weights)
        exporter = Exporter(network, preprocessing, with_preprocessing, temperature, calibrated, half, dynamic_size)
        differences = {name: _write(exporter, name, path) for name, path in paths.items()}
        if "safetensors" in paths:
            write_config(network, preprocessing, folder)
    return differences


def _check_formats(formats: Sequence[str]) -> None:
    """Raises ValueError for formats that are not written here, and for missing packages."""
    for name in formats:
        short = re.sub(r"[^a-z0-9]", "", name.lower())
        short = OTHER_NAMES.get(short, short)
        if name not in FORMATS and short in CONVERSIONS:
            raise ValueError(f"format: expected some of {', '.join(FORMATS)}, got {name}; {CONVERSIONS[short]}")
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"format: expected some of {', '.join(FORMATS)}, got {', '.join(unknown) or 'none'}")
    missing = [name for name in EXPORT_PACKAGES if find_spec(name) is None] if "onnx" in formats else []
    if missing:
        raise ValueError(f"format: onnx needs {', '.join(missing)}; pip install {' '.join(missing)}")


def _write(exporter: Exporter, name: str, path: Path) -> float:
    """Writes one file aside, compares it, and gives it its name. Returns the difference."""
    from ..models.finite import NotFinite

    write: Callable[[Path], Run] = getattr(exporter, f"write_{name}")
    is_program = name != "safetensors"
    with folder_aside(path.parent, ".export-") as folder:
        aside = folder / path.name
        try:
            difference: float = exporter.difference(write(aside), program=is_program)
        except (OSError, NotFinite):
            raise
        except Exception as error:  # exporters raise anything where they do not know an operation
            model, reason = exporter.network.model_name, str(error).split("\n")[0] or type(error).__name__
            one_size = is_program and exporter.dynamic_size
            way = "; without --dynamic-size, it is written for one size of images" if one_size else ""
            raise ValueError(f"format: {name} fails for {model}: {reason}{way}") from error
        if not difference <= exporter.tolerance:
            raise ValueError(
                f"format: {name}: logits differ from the network's by {difference:.1e} of the largest logit, more than "
                f"{exporter.tolerance:.0e}; the file is not kept"
            )
        with atomic_write(path) as place:
            os.replace(aside, place)
    return difference


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to export, and how."""

    weights: str
    """A run folder, or the model.safetensors of one."""
    format: list[str] | None = None
    """What to write: safetensors, torch, torchscript, onnx. Required."""
    output: str
    """The folder to write to."""
    with_preprocessing: bool = False
    """Programs (torch, torchscript, onnx) take bytes, and normalise them."""
    calibrated: bool = False
    """Programs divide logits by the temperature that training fitted, for calibrated probabilities."""
    half: bool = False
    """Store weights, and have programs compute, in float16; images and logits stay float32."""
    dynamic_size: bool = False
    """Programs take images of any height and width, as far as the network does."""


def run(options: Options) -> None:
    """Exports as the options say, and prints a line for each file. Raises as :func:`export` does."""
    require_one_process()
    if not options.format:
        raise ValueError(f"format: must be given ({', '.join(FORMATS)}); see xmixup export --help")
    differences = export(
        options.weights,
        options.format,
        options.output,
        with_preprocessing=options.with_preprocessing,
        calibrated=options.calibrated,
        half=options.half,
        dynamic_size=options.dynamic_size,
    )
    tolerance = HALF_TOLERANCE if options.half else TOLERANCE
    for name, difference in differences.items():
        path = Path(options.output, f"model{FORMATS[name]}")
        print(
            f"{path}: {path.stat().st_size / 2**20:.1f} MiB, logits as the network's in batches of "
            f"{', '.join(map(str, BATCH_SIZES))}: within {difference:.1e} of the largest (allowed: {tolerance:.0e})"
        )


def main(arguments: Sequence[str] | None = None, prog: str = "xmixup export") -> int:
    """Runs the command; returns its exit status, 2 for an error that the user can mend."""

    def work() -> None:
        given = sys.argv[1:] if arguments is None else arguments
        positional, metavars = {"weights": "RUN_OR_WEIGHTS"}, {"format": "FORMAT"}
        run(parse_options(Options, given, prog, __doc__, positional=positional, metavars=metavars))

    return exit_status(work)
