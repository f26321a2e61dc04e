"""Trainer: the training step, and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..batches.plan import Draw
from ..batches.render import Renderer
from ..batches.sampler import Sampler
from ..batches.seeds import SeedUse, hash_integers
from ..evaluation import Evaluation, evaluate_network, merge_evaluations
from ..methods import Method
from ..models.network import Network
from ..ops.image_pool import Images
from ..runtime import distributed
from ..runtime.device import DTYPES, autocast
from ..settings.fields import Settings
from .cuda_graph import CudaGraphRunner
from .optimizer import make_optimizer, rate, warmup_steps
from .profiler import Span, no_span


class Loss(nn.Module):
    """What a method minimises, as a module: for wrappers that need the network's forward inside of theirs."""

    def __init__(self, network: Network, method: Method, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.method = method
        self.dtype = dtype

    def forward(self, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        with autocast(draw.lam.device, self.dtype):
            return self.method.loss(self.network, inputs, draw)


class Trainer:
    """Trains a network with a method. What the settings freeze has to be frozen (:func:`.optimizer.freeze`)."""

    def __init__(
        self, network: Network, method: Method, sampler: Sampler, renderer: Renderer, settings: Settings
    ) -> None:
        self.network = network.train()
        self.method = method
        self.sampler = sampler
        self.renderer = renderer
        self.loss: nn.Module = Loss(network, method, DTYPES[settings.amp])
        if settings.compile:
            self.loss.compile(dynamic=False, fullgraph=True)  # in place: the state's names stay
        if distributed.world_size() > 1:
            # Each process normalises batches by statistics of its own part; evaluation takes those of the first.
            self.loss = DistributedDataParallel(
                self.loss, forward_sync_buffers=False, find_unused_parameters=method.has_unused_parameters
            )
            self.loss.register_comm_hook(None, distributed.sum_gradients)
        device = next(network.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "fp16")
        self._scaled = ("scale", "_growth_tracker") if self.scaler.is_enabled() else ()
        self.average: ModelEmaV3 | None = None
        if settings.ema_decay:
            self.average = ModelEmaV3(network, settings.ema_decay, use_warmup=True).requires_grad_(False)
        self.backward = CudaGraphRunner(self._backward, network.parameters()) if settings.cuda_graph else self._backward
        self.seed = settings.seed
        self.batch_size = settings.batch_size
        self.parts = settings.grad_accum_steps or 1
        """That this process's part of a batch goes through the network in."""
        self.span: Span = no_span
        """Names a part of a step to the profiler, where there is one (see :mod:`.profiling`)."""
        self.steps_done = 0
        self.source_phase_steps = method.source_phase_steps(sampler.steps)
        self.steps = self.source_phase_steps + sampler.steps
        """Of the whole run."""
        self._draws = self._draws_from_here()
        self.settings = settings
        self.warmup = warmup_steps(settings, len(sampler.labels))
        self.optimizer = make_optimizer(network, settings, method.weight_decay)
        self.lr = settings.lr
        """In the step to come, of pretrained parameters without layer-wise decay."""
        self._set_rates()

    def step(self) -> Tensor:
        """Draws, mixes, and updates the network once.

        Returns the loss, or this process's part of it: a detached scalar on the network's device. The parts add up.
        """
        with self.span("data"):
            draw = next(self._draws)
        with self.span("update"):
            self.method.before_step(self.network, self.optimizer, self.steps_done, self.sampler.steps)
            self.optimizer.zero_grad()
        # Of layers such as dropout: the same whatever came before, and another in each process.
        torch.manual_seed(hash_integers(self.seed, SeedUse.LAYERS, self.steps_done, distributed.rank()))
        losses = []
        parts = list(self._split(draw))
        for number, part in enumerate(parts, start=1):
            with self._no_sync() if number < len(parts) else nullcontext():
                with self.span("mix"):
                    inputs = self.method.inputs(part, self.renderer)
                losses.append(self.backward(inputs, part))
        with self.span("update"):
            self.scaler.unscale_(self.optimizer)
            if self.settings.clip_grad is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_grad)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.steps_done += 1
        self._set_rates()
        if self.average is not None:
            self.average.update(self.network, self.steps_done)
        return torch.stack(losses).sum()

    def _backward(self, inputs: tuple[Tensor, ...], part: Draw) -> Tensor:
        """Adds the gradients of a part of the batch; returns what it adds to the loss."""
        with self.span("forward"):
            loss: Tensor = self.loss(inputs, part)
        share = len(part.lam) / self.batch_size
        with self.span("backward"):
            self.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
        return loss.detach() * share

    def _no_sync(self) -> AbstractContextManager[None]:
        loss = self.loss
        return loss.no_sync() if isinstance(loss, DistributedDataParallel) else nullcontext()

    @property
    def final_network(self) -> Network:
        """The network to validate, test and keep: the average where there is one."""
        network: Network = self.network if self.average is None else self.average.module
        return network

    def _split(self, draw: Draw) -> Iterator[Draw]:
        """The parts of a batch that go through the network one after the other."""
        cuts = [len(draw.lam) * part // self.parts for part in range(self.parts + 1)]
        return (draw.part(*cut) for cut in pairwise(cuts))

    def state_dict(self) -> dict[str, Tensor]:
        """All that the steps to come depend on, besides settings and data; not copied."""
        state = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        state |= {f"method.{name}": tensor for name, tensor in self.method.state_dict().items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{number}.{name}": value for name, value in values.items() if value is not None}
        if self.average is not None:
            state |= {f"average.{name}": tensor for name, tensor in self.average.module.state_dict().items()}
        state |= {f"scaler.{name}": torch.tensor(self.scaler.state_dict()[name]) for name in self._scaled}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor], steps_done: int) -> None:
        """Takes over what :meth:`state_dict` gave after a number of steps.

        Raises ValueError or RuntimeError where it is of another network or method.
        """
        names = ("network", "method", "optimizer", "average", "scaler")
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        for name, tensor in state.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.network.load_state_dict(parts["network"])
        self.method.load_state_dict(parts["method"])
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.state.clear()
        for name, tensor in parts["optimizer"].items():
            number, _, what = name.partition(".")
            parameter = parameters[int(number)]
            # AdamW's count of steps is a number of its own, which stays on the CPU.
            kept = tensor.clone() if what == "step" else torch.empty_like(parameter).copy_(tensor)
            self.optimizer.state[parameter][what] = kept
        if self.average is not None:
            self.average.module.load_state_dict(parts["average"])
        if self._scaled:
            scale = {name: parts["scaler"][name].item() for name in self._scaled}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **scale})
        self.steps_done = steps_done
        self._set_rates()
        self._draws = self._draws_from_here()

    def _draws_from_here(self) -> Iterator[Draw]:
        yield from self.renderer.feed(self._draw(step) for step in range(self.steps_done, self.steps))

    def _draw(self, step: int) -> Draw:
        with self.span("draw"):
            return self.method.draw(self.sampler, step)

    def _set_rates(self) -> None:
        """Gives the optimiser the next step's learning rates."""
        settings, step, steps = self.settings, self.steps_done, self.source_phase_steps
        if step >= self.source_phase_steps:
            step, steps = step - self.source_phase_steps, self.sampler.steps
        factor = rate(settings.schedule, self.warmup, step, steps)
        self.lr = settings.lr * factor
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * group["lr_scale"] * factor

    def examine(self, images: Images) -> Evaluation:
        """What the network makes of each image, on unmixed centre crops; in float32, as the weights are kept.

        The processes share the work.
        """
        self._share_statistics(self.final_network)
        mine = torch.arange(len(images), device=images.labels.device)[distributed.rank() :: distributed.world_size()]
        return merge_evaluations(
            distributed.gather_objects(
                evaluate_network(self.final_network, self.renderer, images, self.batch_size, mine)
            )
        )

    def evaluate(self, images: Images) -> float:
        """Accuracy on unmixed centre crops, in percent."""
        return self.examine(images).accuracy

    def _share_statistics(self, network: Network) -> None:
        """Gives all processes the statistics of batch normalisation that the first has."""
        if distributed.world_size() > 1:
            buffers = dict(network.named_buffers())
            for name in sorted(buffers.keys() & network.state_dict().keys()):
                torch.distributed.broadcast(buffers[name], 0)
