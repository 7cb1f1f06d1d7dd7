from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.errors import ConfigurationError
from federated_learning.augmentation import NONE
from federated_learning.checkpoints import read
from federated_learning.in_process import EpochResult, Trainer, fit, read_chosen
from federated_learning.torch_networks import Images, Labels, predict
from federated_learning.training_settings import Stage, TrainingSettings, read_stages
from tests.federated_learning.conftest import draw


def settings(**changes: Any) -> TrainingSettings:
    values: dict[str, Any] = {
        "architecture": "resnet10-narrow",
        "stages": (Stage(size=16, epochs=2, batch=8), Stage(size=32, epochs=2, batch=8)),
        "average_decay": 0.8,
        "augmentation": NONE.model_copy(update={"flip_probability": 0.5, "brightness": 0.1, "mixup": 0.2}),
        "seed": 5,
    }
    return TrainingSettings(**(values | changes))


def pictures(count: int, seed: int) -> tuple[Images, Labels]:
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    grey = np.stack([draw(int(label), generator) for label in labels]).astype(np.float32) / 255
    return ((grey - 0.4) / 0.2)[:, np.newaxis].astype(np.float32), labels


def centralised(chosen: TrainingSettings, images: Images, labels: Labels) -> Trainer:
    return Trainer(chosen, {"": (images, labels)})


class Crash(Exception):
    pass


def test_training_learns_what_can_be_seen(tmp_path: Path) -> None:
    images, labels = pictures(48, 1)
    held_out, truth = pictures(18, 2)
    trainer = centralised(settings(stages=(Stage(size=32, epochs=6, batch=8),), peak_rate=5e-3), images, labels)
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

    first = centralised(settings(), images, labels)
    fit(first, images=held_out, labels=truth, folder=whole)

    def crash_in_third_epoch(line: EpochResult) -> None:
        if line.epoch == 3:
            raise Crash

    with pytest.raises(Crash):
        fit(
            centralised(settings(), images, labels),
            images=held_out,
            labels=truth,
            folder=broken,
            report=crash_in_third_epoch,
        )
    second = centralised(settings(), images, labels)
    fit(second, images=held_out, labels=truth, folder=broken)

    assert second.history == first.history
    for name, value in first.model.average.items():
        torch.testing.assert_close(second.model.average[name], value, rtol=0, atol=0)
    best_whole, best_broken = read(whole / "best.npz"), read(broken / "best.npz")
    assert all(np.array_equal(best_whole[name], best_broken[name]) for name in best_whole)


def test_a_run_can_be_replanned_and_says_so(tmp_path: Path) -> None:
    images, labels = pictures(24, 1)
    fit(centralised(settings(), images, labels), images=images, labels=labels, folder=tmp_path)
    longer = (Stage(size=16, epochs=2, batch=8), Stage(size=32, epochs=3, batch=8))
    trainer = centralised(settings(stages=longer), images, labels)
    fit(trainer, images=images, labels=labels, folder=tmp_path)
    assert [line.epoch for line in trainer.history] == [1, 2, 3, 4, 5]
    assert trainer.plans == [(0, settings().stages), (4, longer)]
    assert read_chosen(tmp_path / "best.npz")[1].epoch in {3, 4, 5}


def test_best_is_chosen_at_the_final_size_only(tmp_path: Path) -> None:
    images, labels = pictures(24, 1)
    trainer = centralised(settings(), images, labels)
    fit(trainer, images=images, labels=labels, folder=tmp_path)
    assert [line.final_size for line in trainer.history] == [False, False, True, True]


def test_another_seed_gives_another_network() -> None:
    images, labels = pictures(24, 1)
    first, second = (centralised(settings(seed=seed), images, labels) for seed in (1, 2))
    assert not torch.equal(first.model.average["head.weight"], second.model.average["head.weight"])


def test_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    images, labels = pictures(24, 1)
    fit(centralised(settings(), images, labels), images=images, labels=labels, folder=tmp_path)
    with pytest.raises(ConfigurationError, match="other settings"):
        fit(centralised(settings(seed=6), images, labels), images=images, labels=labels, folder=tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off", b"\x80\x02c__builtin__\nprint\n."]
)
def test_unreadable_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.npz").write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a readable checkpoint"):
        read(tmp_path / "checkpoint.npz")


def test_stages_in_short_keep_the_recipes_batches() -> None:
    like = (Stage(size=112, epochs=40, batch=16), Stage(size=224, epochs=24, batch=8))
    assert read_stages("64x1,112x2,224x3", like=like) == (
        Stage(size=64, epochs=1, batch=8),
        Stage(size=112, epochs=2, batch=16),
        Stage(size=224, epochs=3, batch=8),
    )
    for text in ("", "112", "112x0", "112x2x3", "many x few"):
        with pytest.raises(ConfigurationError, match="--stages is a list such as"):
            read_stages(text, like=like)
