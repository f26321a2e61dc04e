"""Trainer: the training step, and evaluation.

A step whose fp16 gradients overflow leaves the weights as they are and still counts, so that order, learning rates and
number of steps do not depend on the loss scale. The averaged weights follow after every step, also after such a one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import update_bn

from ..batches.plan import StepPlan
from ..batches.render import Pools, fetch
from ..batches.sampler import Sampler
from ..batches.seeds import SeedUse, hash_integers
from ..data.center_crops import center_crop_batches
from ..evaluation import Evaluation, evaluate_network, merge_evaluations
from ..methods import L2SP, Method
from ..methods.base import forget, load_state
from ..models.finite import not_finite
from ..models.network import Network
from ..ops.depthwise import FastDepthwise
from ..ops.image_format import OutputBuffers
from ..ops.image_pool import ImagePool, Images
from ..runtime import distributed
from ..runtime.device import DTYPES, autocast
from ..settings.fields import Settings
from .cuda_graph import CudaGraphRunner, Work
from .optimizer import is_capturable, make_optimizer, rate, set_rates, warmup_steps
from .profiler import Span, no_span

EVALUATION_SCALE = 4
"""Evaluations keep no activations for a backward pass: so many times as many images go through the network at once."""


@dataclass(frozen=True)
class StepParts:
    """What a training step works on and with. The network, its parameters frozen as settings say, is on the device."""

    network: Network
    method: Method
    regularizer: L2SP | None
    sampler: Sampler
    images: Images
    """The training images."""
    auxiliary: ImagePool | None
    """The auxiliary images; None for a method without a source."""


class TrainingLoss(nn.Module):
    """What a step minimises, as a module: for wrappers that need the network's forward inside of theirs."""

    def __init__(self, parts: StepParts, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = parts.network
        self.method = parts.method
        self.regularizer = parts.regularizer
        self.dtype = dtype
        on_cpu = next(parts.network.parameters()).device.type == "cpu"
        self.fast_depthwise = on_cpu and dtype == torch.float32 and FastDepthwise.helps(parts.network)

    def forward(self, images: tuple[Tensor, ...], plan: StepPlan) -> Tensor:
        fast = self.fast_depthwise and not torch.compiler.is_compiling()
        with autocast(plan.lam.device, self.dtype), FastDepthwise() if fast else nullcontext():
            loss = self.method.loss(self.network, images, plan)
            return loss if self.regularizer is None else loss + self.regularizer.penalty()


class Trainer:
    """Trains a network with a method. On a GPU no step has the host wait, but for fp16's scaler and bss."""

    def __init__(self, parts: StepParts, settings: Settings) -> None:
        network = parts.network
        self.network = network.train()
        self.method = parts.method
        self.regularizer = parts.regularizer
        self.sampler = parts.sampler
        self.images = parts.images
        self.auxiliary = parts.auxiliary
        self.form = network.image_format(settings.crop_size, DTYPES[settings.amp])
        self.buffers = OutputBuffers()
        self.loss: nn.Module = TrainingLoss(parts, DTYPES[settings.amp])
        if settings.compile:
            self.loss.compile(dynamic=False, fullgraph=True)  # in place: the state's names stay
        if distributed.world_size() > 1:
            self.loss = DistributedDataParallel(self.loss, find_unused_parameters=self.method.has_unused_parameters)
            # Each process normalises batches by statistics of its own part; evaluation takes those of the first. The
            # attribute has this name in every torch, the argument another one since 2.14.
            self.loss.broadcast_buffers = False
            self.loss.register_comm_hook(None, distributed.sum_gradients)
        self.device = next(network.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.amp == "fp16")
        self._scaled = ("scale", "_growth_tracker") if self.scaler.is_enabled() else ()
        self.average: ModelEmaV3 | None = None
        if settings.ema_decay:
            self.average = ModelEmaV3(network, settings.ema_decay, use_warmup=True).requires_grad_(False)
        self.seed = settings.seed
        self.batch_size = settings.batch_size
        self.micro_batches = settings.grad_accum_steps or 1
        """Micro-batches per step."""
        at_once = -(-settings.batch_size // (self.micro_batches * distributed.world_size()))
        self.eval_batch_size = settings.eval_batch_size or EVALUATION_SCALE * at_once
        """Images at a time in evaluations."""
        self.span: Span = no_span
        """Names a part of a step to the profiler, where there is one (see :mod:`.profiler`)."""
        self.steps_done = 0
        self.source_phase_steps = self.method.source_phase_steps(self.sampler.steps)
        self.steps = self.source_phase_steps + self.sampler.steps if self.method.takes_steps else 0
        """The steps of the whole run; 0 where the method fits the head alone."""
        self._batches = self._batches_from_here()
        self.settings = settings
        self.warmup = warmup_steps(settings, self.sampler.epoch_length)
        weight_decay = settings.weight_decay if self.regularizer is None else 0.0
        self.optimizer = make_optimizer(network, settings, weight_decay)
        self.backward: Work = self._backward
        if settings.cuda_graph:
            work = self._backward_and_update if is_capturable(self.optimizer) else self._backward
            self.backward = CudaGraphRunner(work, network.parameters())
        self.lr = settings.lr
        """Learning rate of the step to come, for pretrained parameters without layer-wise decay."""
        self._follow_schedule()

    def step(self) -> Tensor:
        """Plans, mixes, and updates the network once.

        Returns the loss, or this process's part of it: a detached scalar on the network's device. The parts add up.
        """
        with self.span("data"):
            plan, pools = next(self._batches)
        with self.span("update"):
            self.method.before_step(self.network, self.optimizer, self.steps_done, self.sampler.steps)
            self.optimizer.zero_grad()
        # Dropout and the like: the same in a resumed run, and different in each process.
        torch.manual_seed(hash_integers(self.seed, SeedUse.LAYERS, self.steps_done, distributed.rank()))
        losses, parts = [], plan.split(self.micro_batches)
        for number, part in enumerate(parts, start=1):
            with self._no_sync() if number < len(parts) else nullcontext():
                with self.span("mix"):
                    images = self.method.images(part, pools, self.form, self.buffers)
                losses.append(self.backward(images, part))
        with self.span("update"):
            self._update()
        return torch.stack(losses).sum()

    def _update(self) -> None:
        """Updates the weights, where no graph has done so, learning rates and the averaged weights."""
        if not is_capturable(self.optimizer):
            self._update_weights()
        self.steps_done += 1
        self._follow_schedule()
        if self.average is not None:
            self.average.update(self.network, self.steps_done)

    def _update_weights(self) -> None:
        self.scaler.unscale_(self.optimizer)
        if self.settings.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _backward(self, images: tuple[Tensor, ...], part: StepPlan) -> Tensor:
        """Adds the gradients of a micro-batch; returns what it adds to the loss."""
        with self.span("forward"):
            loss: Tensor = self.loss(images, part)
        share = len(part) / self.batch_size
        with self.span("backward"):
            self.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
        return loss.detach() * share

    def _backward_and_update(self, images: tuple[Tensor, ...], part: StepPlan) -> Tensor:
        """What a graph holds: all of a step that needs the host neither to decide nor to wait. Returns the loss."""
        loss = self._backward(images, part)
        with self.span("update"):
            self._update_weights()
        return loss

    def _no_sync(self) -> AbstractContextManager[None]:
        """A context in which gradients are not yet summed over the processes."""
        loss = self.loss
        return loss.no_sync() if isinstance(loss, DistributedDataParallel) else nullcontext()

    @property
    def final_network(self) -> Network:
        """The network to validate, test and keep: the average where there is one."""
        network: Network = self.network if self.average is None else self.average.module
        return network

    def state_dict(self) -> dict[str, Tensor]:
        """All that the steps to come depend on, besides settings and data; not copied."""
        state = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        state |= {f"method.{name}": tensor for name, tensor in self.method.state_dict().items()}
        if self.regularizer is not None:
            state |= {f"regularizer.{name}": tensor for name, tensor in self.regularizer.state.items()}
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
        names = ("network", "method", "regularizer", "optimizer", "average", "scaler")
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        for name, tensor in state.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.network.load_state_dict(parts["network"])
        self.method.load_state_dict(parts["method"])
        load_state(self.regularizer.state if self.regularizer else {}, parts["regularizer"])
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        forget(self.optimizer, parameters)
        for name, tensor in parts["optimizer"].items():
            number, _, what = name.partition(".")
            parameter = parameters[int(number)]
            own = self.optimizer.state[parameter]
            if what not in own:
                # AdamW's count of steps is a number of its own, which stays on the CPU where no graph reads it.
                count = what == "step"
                device = "cpu" if count and not is_capturable(self.optimizer) else self.device
                own[what] = torch.empty_like(tensor if count else parameter, device=device)
            own[what].copy_(tensor)
        if self.average is not None:
            self.average.module.load_state_dict(parts["average"])
        if self._scaled:
            scale = {name: parts["scaler"][name].item() for name in self._scaled}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **scale})
        self.steps_done = steps_done
        self._follow_schedule()
        self._batches = self._batches_from_here()

    def _batches_from_here(self) -> Iterator[tuple[StepPlan, Pools]]:
        plans = (self._plan(step) for step in range(self.steps_done, self.steps))
        yield from fetch(self.images, self.auxiliary, plans, self.sampler.augmentation)

    def _plan(self, step: int) -> StepPlan:
        with self.span("plan"):
            return self.method.plan(self.sampler, step)

    def set_lr(self, lr: float, factor: float = 1.0) -> None:
        """Has the next step's learning rates be ``lr * factor``, in multiples where groups of parameters have them."""
        self.lr = lr * factor
        set_rates(self.optimizer, [lr * group["lr_scale"] * factor for group in self.optimizer.param_groups])

    def _follow_schedule(self) -> None:
        """Gives the optimiser the next step's learning rates."""
        settings, step, steps = self.settings, self.steps_done, self.source_phase_steps
        if step >= self.source_phase_steps:
            step, steps = step - self.source_phase_steps, self.sampler.steps
        self.set_lr(settings.lr, rate(settings.schedule, self.warmup, step, steps))

    def evaluate(self, images: Images, **options: Any) -> Evaluation:
        """Evaluates the final network on unmixed centre crops, in float32, as the weights are kept.

        The processes share the work. ``options`` are those of :func:`evaluate_network`: a temperature, keep_logits.

        Raises ValueError where outputs are not finite.
        """
        network, form = self.final_network, self.form._replace(dtype=torch.float32)
        self._share_statistics(network)
        mine = torch.arange(len(images), device=images.labels.device)[distributed.rank() :: distributed.world_size()]
        own_part = evaluate_network(network, images, form, self.eval_batch_size, mine, **options)
        whole = merge_evaluations(distributed.gather_objects(own_part))
        if wrong := whole.not_finite():
            raise not_finite(network, "outputs", f"{len(wrong)} of {len(whole)} images after step {self.steps_done}")
        return whole

    def renew_statistics(self) -> None:
        """Measures the statistics of batch normalisation anew, as means over batches of unmixed training images.

        The images come in an order that follows from the seed, as batches of one class would vary too little. A last
        batch of fewer images is left out.
        """
        generator = torch.Generator().manual_seed(hash_integers(self.seed, SeedUse.STATISTICS))
        order = torch.randperm(len(self.images), generator=generator).to(self.images.labels.device)
        whole = len(order) - len(order) % self.batch_size or len(order)
        form = self.form._replace(dtype=torch.float32)
        update_bn(center_crop_batches(self.images, form, self.batch_size, order[:whole]), self.final_network)

    def _share_statistics(self, network: Network) -> None:
        """Gives all processes the statistics of batch normalisation that the first has."""
        if distributed.world_size() > 1:
            buffers = dict(network.named_buffers())
            for name in sorted(buffers.keys() & network.state_dict().keys()):
                torch.distributed.broadcast(buffers[name], 0)
