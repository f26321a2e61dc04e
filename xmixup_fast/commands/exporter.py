"""Exporter: writes one trained network in several formats, and compares each with the network."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..models.network import Network
    from ..models.trained import Preprocessing

Run: TypeAlias = Callable[["Tensor"], "Tensor"]
"""Gives logits, float32[B, K], for a batch of inputs."""

TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2
"""Largest difference of two logits that is taken for rounding, relative to the largest logit of the batch: of float32,
and of float16, whose numbers have 11 bits and whose errors add up over the layers."""
SMALLEST = 1e-6
"""The largest logit is taken to be no smaller."""
BATCH_SIZES = (1, 2, 5)
"""Of the batches whose outputs are compared. Programs are traced with none of them."""
TRACED_BATCH = 3
OTHER_SIZES = ((32, 32), (0, 64), (96, 32))
"""How many pixels taller and wider than in training images are that a program of any size is tried on."""
CALIBRATE = "as the weights give them; divide them by the temperature for calibrated probabilities"
FILE = "preprocessing.json"
"""Where programs of torch hold their metadata, as an extra file."""


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
    half: bool = False
    """Whether weights are stored, and programs compute, in float16."""
    dynamic_size: bool = False
    """Whether programs take images of any height and width."""

    @property
    def tolerance(self) -> float:
        """Largest difference of logits, relative to the largest logit of a batch."""
        return HALF_TOLERANCE if self.half else TOLERANCE

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Heights and widths of the images on which outputs are compared, in pixels; the first is training's."""
        size = self.preprocessing.image_size
        others = OTHER_SIZES if self.dynamic_size else ()
        return [(size, size), *((size + taller, size + wider) for taller, wider in others)]

    def metadata(self, program: bool) -> dict[str, str]:
        """What is stored with a program, or else with weights alone, which take normalised crops."""
        as_bytes = program and self.with_preprocessing
        size = self.preprocessing.image_size
        sides = "H, W" if program and self.dynamic_size else f"{size}, {size}"
        return {
            "model": self.network.model_name,
            **self.preprocessing.metadata(as_bytes),
            "input": f"uint8[B, {sides}, 3]" if as_bytes else f"float32[B, 3, {sides}], normalised",
            **({"dtype": "float16"} if self.half else {}),
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
        from ..models.trained import InHalf

        return self._wrapped(InHalf(self.network.body) if self.half else self.network.body)

    def _wrapped(self, body: nn.Module) -> nn.Module:
        """A timm model as it is asked for: it takes bytes, and divides its logits."""
        from ..models.trained import Calibrated, WithPreprocessing

        module = body
        if self.with_preprocessing:
            module = WithPreprocessing(module, self.preprocessing.mean, self.preprocessing.std)
        if self.calibrated and self.temperature is not None:
            module = Calibrated(module, self.temperature)
        return module.eval()

    def inputs(self, batch: int, size: tuple[int, int]) -> Tensor:
        """Random images of a height and width, as the programs take them."""
        import torch

        generator = torch.Generator().manual_seed(batch)
        if self.with_preprocessing:
            return torch.randint(256, (batch, *size, 3), dtype=torch.uint8, generator=generator)
        return torch.randn(batch, 3, *size, generator=generator)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The module, traced."""
        import torch
        from torch.export import Dim

        shapes: dict[int, Any] = {0: Dim("batch")}
        if self.dynamic_size:
            height = 1 if self.with_preprocessing else 2
            shapes |= {height: Dim.DYNAMIC, height + 1: Dim.DYNAMIC}
        with torch.no_grad():
            example = self.inputs(TRACED_BATCH, self.sizes[0])
            return torch.export.export(self.module, (example,), dynamic_shapes=(shapes,))

    def write_safetensors(self, path: Path) -> Run:
        """Writes model.safetensors; returns the network of that file."""
        from safetensors import safe_open

        from ..models.trained import load_network, save
        from ..runtime.tensor_files import write_tensors

        resize = self.preprocessing.resize
        save(self.network, path, self.preprocessing.image_size, "full" if resize is None else resize)
        with safe_open(path, "pt") as file:
            stored = file.metadata()
        state = self.network.body.state_dict()
        if self.half:
            state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        write_tensors(path, state, {**stored, **self.metadata(program=False)})
        network, _ = load_network(path)
        return self._wrapped(network.body)

    def write_torch(self, path: Path) -> Run:
        """Writes a program of torch.export; returns that of the file."""
        import torch

        torch.export.save(self.program, path, extra_files={FILE: json.dumps(self.metadata(program=True))})
        return torch.export.load(path).module()

    def write_torchscript(self, path: Path) -> Run:
        """Writes a traced TorchScript program; returns that of the file."""
        import torch

        with warnings.catch_warnings(), torch.no_grad():
            # That TorchScript goes is known to whoever asks for it. What the tracer doubts is compared below.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(self.module, self.inputs(TRACED_BATCH, self.sizes[0]), check_trace=False)
            torch.jit.save(traced, path, _extra_files={FILE: json.dumps(self.metadata(program=True))})
            program: Run = torch.jit.load(path)
        return program

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
        """The network's logits of random images, normalised as in evaluation where they are bytes.

        Raises ValueError where they are not finite.
        """
        from ..models.finite import not_finite

        if self.with_preprocessing:
            images = self._normalised(images)
        logits: Tensor = self.network(images)
        if not logits.isfinite().all():
            raise not_finite(self.network, "outputs", "random images")
        return logits / self.temperature if self.calibrated and self.temperature is not None else logits

    def _normalised(self, images: Tensor) -> Tensor:
        """Whole images, uint8[B, H, W, 3], as evaluation normalises crops: float32[B, 3, H, W]."""
        import torch

        from ..data.center_crops import plain_images
        from ..ops.image_pool import Crops, ImagePool

        batch, height, width, _ = images.shape
        index = torch.arange(batch)
        window = torch.tensor([0, 0, height, width], dtype=torch.int32).repeat(batch, 1)
        crops = Crops(index, window, torch.zeros_like(index, dtype=torch.bool))
        form = self.network.image_format(self.preprocessing.image_size)
        out = torch.empty(batch, 3, height, width).to(memory_format=torch.channels_last)
        return plain_images(ImagePool.from_dense(images), crops, form, out)

    def difference(self, run: Run, *, program: bool) -> float:
        """The largest difference of a written model's logits from the network's, relative to the largest logit.

        ``program``: of a program, which with ``dynamic_size`` is tried on images of other sizes, too.

        Raises ValueError where a model's output has another shape, or one of both is not finite.
        """
        import torch

        differences = []
        for size in self.sizes if program else self.sizes[:1]:
            for batch in BATCH_SIZES:
                images = self.inputs(batch, size)
                with torch.no_grad():
                    expected, got = self.expected(images), run(images)
                if expected.shape != got.shape:
                    raise ValueError(f"expected {list(expected.shape)} logits, got {list(got.shape)}")
                if self.half and not got.isfinite().all():
                    raise ValueError("logits are not finite in float16; leave --half out")
                differences.append((got - expected).abs().max() / expected.abs().max().clamp(min=SMALLEST))
        return torch.stack(differences).max().item()
