import torch

from federated_learning.augmentation import NONE, Augmentation, augment, mix


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmentation_switched_off_changes_nothing() -> None:
    images, targets = torch.rand(3, 1, 16, 16), torch.eye(3)
    assert augment(images, NONE, generator()) is images
    mixed, mixed_targets = mix(images, targets, NONE, generator())
    assert mixed is images
    assert mixed_targets is targets


def test_flip_alone_mirrors_the_columns() -> None:
    flip = NONE.model_copy(update={"flip_probability": 1.0})
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(augment(images, flip, generator()), images.flip(-1))


def test_the_same_seed_draws_the_same_changes_and_each_image_its_own() -> None:
    images = torch.rand(1, 1, 24, 24).repeat(4, 1, 1, 1)
    first, again, other = (augment(images, Augmentation(), generator(seed)) for seed in (1, 1, 2))
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    assert type(first) is torch.Tensor
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_each_kind_of_change_changes_the_image() -> None:
    images = torch.rand(2, 1, 24, 24)
    for name in Augmentation.model_fields:
        if name == "mixup":
            continue
        alone = NONE.model_copy(update={name: 1.0 if name.endswith("probability") else 0.2})
        changed = augment(images, alone, generator())
        assert changed.shape == images.shape, name
        assert not torch.equal(changed, images) or name == "rotation_degrees", name
    rotated = augment(images, NONE.model_copy(update={"rotation_degrees": 45.0}), generator())
    assert not torch.equal(rotated, images)


def test_shift_stays_within_its_limit() -> None:
    images = torch.zeros(16, 1, 32, 32)
    images[:, :, 15:17, 15:17] = 1
    shifted = augment(images, NONE.model_copy(update={"shift": 0.125}), generator())
    rows = torch.arange(32.0) - 15.5
    mass = shifted.sum((1, 2, 3))
    for axis in (2, 3):
        other = 5 - axis
        centre = (shifted.sum((1, other)) * rows).sum(1) / mass
        assert centre.abs().max() <= 4.01
        assert centre.abs().max() > 1


def test_mixed_targets_stay_distributions_in_step_with_the_images() -> None:
    targets = torch.eye(4)
    images = targets.view(4, 1, 2, 2).clone()
    mixed, mixed_targets = mix(images, targets, Augmentation(mixup=1.0), generator())
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(4))
    torch.testing.assert_close(mixed.flatten(1), mixed_targets)
    assert (mixed_targets.diagonal() >= 0.5).all()
    assert not torch.equal(mixed_targets, targets)
