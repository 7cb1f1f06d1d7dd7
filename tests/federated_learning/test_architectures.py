import numpy as np
import pytest
import torch
from torch import nn

from contract.errors import ConfigurationError
from federated_learning.architectures import (
    ARCHITECTURES,
    RESIDUAL_SCALE,
    Pool,
    StandardisedConvolution2d,
    build,
    fold_normalisation,
)
from federated_learning.torch_networks import shared_weights

POOLS: tuple[Pool, ...] = ("average", "max")


def stirred(architecture: str, *, pool: Pool = "average", channels: int = 1, classes: int = 3) -> nn.Module:
    """A network whose every weight, gain and statistic is away from where it started."""
    torch.manual_seed(0)
    network = build(architecture, channels=channels, classes=classes, pool=pool)
    with torch.no_grad():
        network.train()
        for _ in range(3):
            network(torch.randn(8, channels, 32, 32))
        for name, parameter in network.named_parameters():
            if parameter.ndim <= 1 and not name.startswith("head"):
                parameter.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "resnet18"])
def test_folded_network_computes_the_same_with_plain_layers_only(architecture: str, pool: Pool) -> None:
    network = stirred(architecture, pool=pool)
    plain = fold_normalisation(network)
    kinds = {type(module) for module in plain.modules() if not list(module.children())}
    kinds -= {nn.Identity, nn.Dropout}
    assert kinds <= {nn.Conv2d, nn.ReLU, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Linear}
    assert (nn.MaxPool2d in kinds) == (pool == "max")
    assert (nn.AvgPool2d in kinds) == (pool == "average")
    images = torch.randn(4, 1, 32, 32)
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(plain(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert not any(module is other for module in plain.modules() for other in network.modules())


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if not name.startswith("resnet18")])
def test_any_number_of_channels_and_classes(architecture: str) -> None:
    network = build(architecture, channels=3, classes=7).eval()
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_standardised_kernels_have_mean_zero_and_variance_one_over_fan_in() -> None:
    torch.manual_seed(1)
    layer = StandardisedConvolution2d(inputs=5, outputs=4, kernel=3, scale=2.0)
    with torch.no_grad():
        layer.weight.mul_(7).add_(0.3)
        layer.gain.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    kernels = layer.effective()[0].detach().flatten(1)
    torch.testing.assert_close(kernels.mean(1), torch.zeros(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(kernels.var(1, correction=0) * 45, 4 * layer.gain.detach() ** 2)


@pytest.mark.parametrize("gated", [False, True])
def test_gradients_of_a_standardised_kernel_are_those_of_its_definition(gated: bool) -> None:
    torch.manual_seed(2)
    layer = StandardisedConvolution2d(inputs=3, outputs=4, kernel=3, gated=gated).double()
    with torch.no_grad():
        layer.gain.uniform_(0.5, 2)
        if layer.gate is not None:
            layer.gate.fill_(0.7)
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    target = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    torch.autograd.backward((layer(images) * target).sum())
    got = {name: parameter.grad for name, parameter in layer.named_parameters()}

    layer.zero_grad()
    variance, mean = torch.var_mean(layer.weight, dim=(1, 2, 3), keepdim=True, correction=0)
    kernels = (layer.weight - mean) / (27 * variance).sqrt() * layer.gain.view(-1, 1, 1, 1)
    gate = RESIDUAL_SCALE * layer.gate if layer.gate is not None else 1.0
    output = nn.functional.conv2d(images, kernels * gate, layer.bias * gate, padding=1)
    torch.testing.assert_close(layer(images), output)
    torch.autograd.backward((output * target).sum())
    for name, parameter in layer.named_parameters():
        assert got[name] is not None
        torch.testing.assert_close(got[name], parameter.grad)


def test_signal_of_a_new_normaliser_free_network_neither_dies_nor_grows() -> None:
    torch.manual_seed(3)
    network = build("resnet18-normaliser-free", channels=1, classes=3).eval()
    deviations = []
    with torch.no_grad():
        signal = network.get_submodule("stem")(torch.randn(8, 1, 64, 64))
        for block in network.get_submodule("stages").children():
            signal = block(signal)
            deviations.append(float(signal.std()))
    assert min(deviations) > 0.1
    assert max(deviations) < 3


def test_normaliser_free_network_has_no_statistic_of_the_data() -> None:
    network = build("resnet18-normaliser-free", channels=1, classes=3)
    assert not [name for name, _ in network.named_buffers() if name in network.state_dict()]
    narrow = build("resnet10-narrow", channels=1, classes=3)
    assert any("running_mean" in name for name in shared_weights(narrow))
    assert not any("num_batches" in name for name in shared_weights(narrow))


def test_unknown_architecture_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="resnet18"):
        build("resnet99", channels=1, classes=3)


def test_resnet18_has_the_usual_size() -> None:
    network = build("resnet18", channels=1, classes=3)
    # torchvision's ResNet-18 (11,689,512), less the two missing input channels and the other 997 classes
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512 - 2 * 64 * 49 - 997 * 513


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(4)
    network = build("small-cnn", channels=1, classes=3, dropout=0.5)
    images = torch.randn(2, 1, 32, 32)
    assert not torch.equal(network(images), network(images))
    network.eval()
    np.testing.assert_array_equal(network(images).detach().numpy(), network(images).detach().numpy())
