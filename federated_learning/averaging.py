"""Federated averaging (McMahan et al. 2017) and the moving average of the global weights."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.errors import ConfigurationError
from federated_learning.checkpoints import Arrays, add_prefix, read_facts, select_tensors, write_facts
from federated_learning.torch_networks import Weights, new_network, shared_weights
from federated_learning.training_settings import TrainingSettings


def weighted_mean(updates: Sequence[Mapping[str, Tensor]], examples: Sequence[int]) -> Weights:
    """sum(n_i * update_i) / sum(n_i). Raises ConfigurationError if there is no example at all."""
    total = sum(examples)
    if total <= 0:
        raise ConfigurationError("no hospital trained in this round: all have stopped early")
    first = updates[0]
    mean = {name: torch.zeros_like(value) for name, value in first.items()}
    for update, count in zip(updates, examples, strict=True):
        for name, value in update.items():
            mean[name].add_(value, alpha=count / total)
    return mean


class GlobalModel:
    """The global weights and their moving average over the rounds, which is what is evaluated and kept.

    Hospitals compute them again, each on its own machine, and compare every bit. So `apply` adds and multiplies float32
    in single steps, each of which IEEE 754 rounds in one way only: nothing here may be fused or left to a library's
    exponential.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        """Both start as the network that the settings' seed initialises, so every site can compute it."""
        self._decay = settings.average_decay
        self.weights = shared_weights(new_network(settings))
        self.average = {name: value.clone() for name, value in self.weights.items()}
        self._momentum = settings.server_momentum
        self._velocity = (
            {name: torch.zeros_like(value) for name, value in self.weights.items()} if self._momentum else {}
        )
        self.batches = 0
        """Trained so far, by each hospital."""

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Take other initial weights of the same network, before any round."""
        self.weights = {name: value.clone() for name, value in weights.items()}
        self.average = {name: value.clone() for name, value in weights.items()}

    @torch.no_grad()
    def apply(self, update: Mapping[str, Tensor], *, batches: int) -> None:
        """Add the mean update of a round of so many batches. Raises ConfigurationError for one that does not fit."""
        if update.keys() != self.weights.keys():
            raise ConfigurationError("the update is of another network: give every site the same settings")
        self.batches += batches
        # The decay grows from 0: otherwise the random start would weigh on the average for the first epochs.
        decay = prod([min(self._decay, self.batches / (self.batches + 10))] * batches)
        for name, value in update.items():
            if value.shape != self.weights[name].shape or not torch.isfinite(value).all():
                raise ConfigurationError(f"the update of '{name}' has a wrong shape or a value that is not finite")
        for name, value in update.items():
            self.weights[name] += self._step(name, value)
            self.average[name] += (self.weights[name] - self.average[name]).mul_(1 - decay)

    def _step(self, name: str, update: Tensor) -> Tensor:
        """The update, continued by the earlier ones (Reddi et al. 2021; Nesterov's form as in Douillard et al. 2023).

        Statistics of batch normalisation are estimates, not steps: they only take their mean.
        """
        if not self._momentum or "running_" in name:
            return update
        velocity = self._velocity[name].mul_(self._momentum).add_(update)
        return update + self._momentum * velocity

    def state(self) -> Arrays:
        """Copies of all there is, as arrays by name."""
        arrays: Arrays = {"global": write_facts({"batches": self.batches})}
        arrays |= add_prefix("weights", self.weights) | add_prefix("average", self.average)
        return arrays | add_prefix("velocity", self._velocity)

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue where `state` was taken."""
        self.batches = int(read_facts(state, "global")["batches"])
        self.weights, self.average = select_tensors(state, "weights"), select_tensors(state, "average")
        self._velocity = select_tensors(state, "velocity")
