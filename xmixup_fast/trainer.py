"""Trainer: the training step, and evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from .methods import Method
from .models import Network
from .pool import Images
from .rendering import Renderer
from .sampling import Draw, Sampler
from .settings import Settings


class Loss(nn.Module):
    """What a method minimises, as a module: for wrappers that need the network's forward inside of theirs."""

    def __init__(self, network: Network, method: Method) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, inputs: tuple[Tensor, ...], draw: Draw) -> Tensor:
        return self.method.loss(self.network, inputs, draw)


class Trainer:
    """Trains a network with a method: SGD with Nesterov momentum and a cosine to zero over each phase's steps."""

    def __init__(
        self, network: Network, method: Method, sampler: Sampler, renderer: Renderer, settings: Settings
    ) -> None:
        self.network = network.train()
        self.method = method
        self.sampler = sampler
        self.renderer = renderer
        self.loss = Loss(network, method)
        self.batch_size = settings.batch_size
        self.parts = settings.grad_accum_steps or 1
        """That this process's part of a batch goes through the network in."""
        self.steps_done = 0
        self.first_steps = method.first_steps(sampler.steps)
        self.steps = self.first_steps + sampler.steps
        """Of the whole run."""
        self._draws = self._draws_from_here()
        self.rates = (settings.lr, settings.lr * settings.head_lr_multiplier)
        """At the start, of pretrained parameters and of new heads."""
        self.optimizer = torch.optim.SGD(
            [{"params": parameters} for parameters in network.parameter_groups()],
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=method.weight_decay,
            nesterov=settings.momentum > 0,
        )
        self._set_rates()

    def step(self) -> Tensor:
        """Draws, mixes, and updates the network once. Returns the loss, a detached scalar on the network's device."""
        draw = next(self._draws)
        self.method.before_step(self.network, self.optimizer, self.steps_done, self.sampler.steps)
        self.optimizer.zero_grad()
        losses = []
        for part in self._split(draw):
            loss: Tensor = self.loss(self.method.inputs(part, self.renderer), part)
            loss = loss * (len(part.lam) / self.batch_size)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        self.optimizer.step()
        self.steps_done += 1
        self._set_rates()
        return torch.stack(losses).sum()

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
        state["random.cpu"] = torch.get_rng_state()  # of layers such as dropout
        if torch.cuda.is_available():
            state["random.cuda"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor], steps_done: int) -> None:
        """Takes over what :meth:`state_dict` gave after a number of steps.

        Raises ValueError or RuntimeError where it is of another network or method.
        """
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in ("network", "method", "optimizer", "random")}
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
            self.optimizer.state[parameter][what] = torch.empty_like(parameter).copy_(tensor)
        torch.set_rng_state(parts["random"]["cpu"])
        if "cuda" in parts["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(parts["random"]["cuda"])
        self.steps_done = steps_done
        self._set_rates()
        self._draws = self._draws_from_here()

    def _draws_from_here(self) -> Iterator[Draw]:
        steps = range(self.steps_done, self.steps)
        yield from self.renderer.feed(self.method.draw(self.sampler, step) for step in steps)

    def _set_rates(self) -> None:
        """Gives the optimiser the next step's learning rates."""
        step, first = self.steps_done, self.first_steps
        done = step / first if step < first else (step - first) / self.sampler.steps
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * done)) / 2

    @torch.no_grad()
    def evaluate(self, images: Images) -> float:
        """Accuracy on unmixed centre crops, in percent."""
        self.network.eval()
        correct = sum(
            int((self.network(batch).argmax(1) == labels).sum())
            for batch, labels in self.renderer.batches(images, self.batch_size)
        )
        self.network.train()
        return 100 * correct / len(images)
