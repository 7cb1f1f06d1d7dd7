"""Optimisers, learning-rate schedule and the loss."""

import math

import torch
from torch import Tensor, nn

from federated_learning.training_settings import TrainingSettings


def make_optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The settings' optimiser. Weight decay acts on kernels only: on biases, gains and normalisation it does harm."""
    kernels = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0
        return torch.optim.SGD(groups, lr=settings.peak_rate, momentum=settings.momentum, nesterov=nesterov, fused=True)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.peak_rate, fused=True)


def learning_rate(settings: TrainingSettings, done: float) -> float:
    """Linear warm-up, then cosine to zero; `done` is the part of the run that has passed, in [0, 1]."""
    if done < settings.warm_up:
        return settings.peak_rate * done / settings.warm_up
    falling = (done - settings.warm_up) / (1 - settings.warm_up)
    return settings.peak_rate * 0.5 * (1 + math.cos(math.pi * falling))


@torch.no_grad()
def add_proximal_gradient(network: nn.Module, anchor: dict[str, Tensor], strength: float) -> None:
    """FedProx: the gradient of strength / 2 * |weights - anchor|^2 on top of the loss's own."""
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            parameter.grad.add_(parameter - anchor[name], alpha=strength)
