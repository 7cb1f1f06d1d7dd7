from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.errors import ConfigurationError
from federated_learning.architectures import build
from federated_learning.augmentation import Augmentation, augment, mix
from federated_learning.training import EpochResult, Stage, Trainer, TrainingSettings, fit, predict, read, read_chosen
from tests.federated_learning.conftest import draw


def settings(**changes: Any) -> TrainingSettings:
    values: dict[str, Any] = {
        "architecture": "resnet10-narrow",
        "stages": (Stage(size=16, epochs=2, batch=8), Stage(size=32, epochs=2, batch=8)),
        "average_decay": 0.8,
        "seed": 5,
    }
    return TrainingSettings(**(values | changes))


def pictures(
    count: int, seed: int
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.int64]]]:
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    grey = np.stack([draw(int(label), generator) for label in labels]).astype(np.float32) / 255
    return ((grey - 0.4) / 0.2)[:, np.newaxis].astype(np.float32), labels


class Crash(Exception):
    pass


def test_training_learns_what_can_be_seen(tmp_path: Path) -> None:
    images, labels = pictures(48, 1)
    held_out, truth = pictures(18, 2)
    trainer = Trainer(
        settings(stages=(Stage(size=32, epochs=6, batch=8),), peak_rate=5e-3), images=images, labels=labels
    )
    losses: list[EpochResult] = []
    network = fit(trainer, images=held_out, labels=truth, folder=tmp_path, report=losses.append)
    assert losses[-1].loss < losses[0].loss
    best = max(line.accuracy for line in losses)
    assert best > 0.6
    assert (predict(network, held_out).argmax(1) == truth).mean() == pytest.approx(best)


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    images, labels = pictures(24, 1)
    held_out, truth = pictures(9, 2)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()

    first = Trainer(settings(), images=images, labels=labels)
    fit(first, images=held_out, labels=truth, folder=whole)

    def crash_in_third_epoch(line: EpochResult) -> None:
        if line.epoch == 3:
            raise Crash

    with pytest.raises(Crash):
        fit(
            Trainer(settings(), images=images, labels=labels),
            images=held_out,
            labels=truth,
            folder=broken,
            report=crash_in_third_epoch,
        )
    second = Trainer(settings(), images=images, labels=labels)
    fit(second, images=held_out, labels=truth, folder=broken)

    assert second.history == first.history
    for name, value in first.average.items():
        torch.testing.assert_close(second.average[name], value, rtol=0, atol=0)
    best_whole, best_broken = read(whole / "best.npz"), read(broken / "best.npz")
    assert all(np.array_equal(best_whole[name], best_broken[name]) for name in best_whole)


def test_a_run_can_be_replanned_and_says_so(tmp_path: Path) -> None:
    images, labels = pictures(24, 1)
    fit(Trainer(settings(), images=images, labels=labels), images=images, labels=labels, folder=tmp_path)
    longer = (Stage(size=16, epochs=2, batch=8), Stage(size=32, epochs=3, batch=8))
    trainer = Trainer(settings(stages=longer), images=images, labels=labels)
    fit(trainer, images=images, labels=labels, folder=tmp_path)
    assert [line.epoch for line in trainer.history] == [1, 2, 3, 4, 5]
    assert trainer.plans == [(0, settings().stages), (4, longer)]
    assert read_chosen(tmp_path / "best.npz")[1].epoch in {3, 4, 5}


def test_best_is_chosen_at_the_final_size_only(tmp_path: Path) -> None:
    images, labels = pictures(24, 1)
    trainer = Trainer(settings(), images=images, labels=labels)
    fit(trainer, images=images, labels=labels, folder=tmp_path)
    assert [line.final_size for line in trainer.history] == [False, False, True, True]


def test_another_seed_gives_another_network() -> None:
    images, labels = pictures(24, 1)
    first, second = (Trainer(settings(seed=seed), images=images, labels=labels) for seed in (1, 2))
    assert not torch.equal(first.average["head.weight"], second.average["head.weight"])


def test_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    images, labels = pictures(24, 1)
    fit(Trainer(settings(), images=images, labels=labels), images=images, labels=labels, folder=tmp_path)
    with pytest.raises(ConfigurationError, match="other settings"):
        fit(Trainer(settings(seed=6), images=images, labels=labels), images=images, labels=labels, folder=tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off", b"\x80\x02c__builtin__\nprint\n."]
)
def test_unreadable_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.npz").write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a readable checkpoint"):
        read(tmp_path / "checkpoint.npz")


def test_unknown_architecture_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="resnet18"):
        build("resnet99", channels=1, classes=3)


def test_resnet18_has_the_usual_size_and_an_average_pool() -> None:
    network = build("resnet18", channels=1, classes=3)
    # torchvision's ResNet-18 (11,689,512), less the two missing input channels and the other 997 classes
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512 - 2 * 64 * 49 - 997 * 513
    assert any(isinstance(module, torch.nn.AvgPool2d) for module in network.modules())
    assert not any(isinstance(module, torch.nn.MaxPool2d) for module in network.modules())


def test_augmentation_switched_off_changes_nothing() -> None:
    off = Augmentation(flip_probability=0, rotation_degrees=0, shift=0, scale=0, contrast=0, brightness=0, mixup=0)
    images, targets = torch.rand(3, 1, 16, 16), torch.eye(3)
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(augment(images, off, generator), images)
    mixed, mixed_targets = mix(images, targets, off, generator)
    assert mixed is images
    assert mixed_targets is targets


def test_flip_alone_mirrors_the_columns() -> None:
    flip = Augmentation(flip_probability=1, rotation_degrees=0, shift=0, scale=0, contrast=0, brightness=0)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(augment(images, flip, torch.Generator().manual_seed(0)), images.flip(-1))


def test_mixed_targets_stay_distributions_in_step_with_the_images() -> None:
    targets = torch.eye(4)
    images = targets.view(4, 1, 2, 2).clone()
    mixed, mixed_targets = mix(images, targets, Augmentation(mixup=1.0), torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(4))
    torch.testing.assert_close(mixed.flatten(1), mixed_targets)
    assert (mixed_targets.diagonal() >= 0.5).all()
    assert not torch.equal(mixed_targets, targets)
