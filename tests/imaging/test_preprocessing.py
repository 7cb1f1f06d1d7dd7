"""The tensor that a model card asks for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from contract.errors import ImageError
from contract.model_card import InputSpecification, Modality
from imaging.preprocessing import to_model_input


def specification(
    *, height: int = 8, width: int = 8, mean: tuple[float, ...] = (0.0,), deviation: tuple[float, ...] = (1.0,)
) -> InputSpecification:
    return InputSpecification(
        modalities=(Modality.DX,),
        channels=1 if len(mean) == 1 else 3,
        height=height,
        width=width,
        mean=mean,
        standard_deviation=deviation,
    )


def test_normalises_each_channel_of_a_repeated_grey_image() -> None:
    pixels = np.linspace(0, 1, 64).reshape(8, 8)
    tensor = to_model_input(pixels, specification(mean=(0.5, 0.25, 0.0), deviation=(0.25, 0.5, 1.0)))
    assert tensor.shape == (3, 8, 8)
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor[0], (pixels - 0.5) / 0.25, atol=1e-6)
    np.testing.assert_allclose(tensor[1], (pixels - 0.25) / 0.5, atol=1e-6)
    np.testing.assert_allclose(tensor[2], pixels, atol=1e-6)


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    pixels = np.random.default_rng(1).random((8, 12))
    assert np.array_equal(to_model_input(pixels, specification(height=8, width=12))[0], pixels.astype(np.float32))


def test_squash_ignores_the_aspect_ratio_and_averages_when_shrinking() -> None:
    stripes = np.tile([0.0, 1.0], (16, 64))  # 16 x 128: nearest or plain bilinear sampling would alias
    tensor = to_model_input(stripes, specification(height=8, width=16))
    assert tensor.shape == (1, 8, 16)
    np.testing.assert_allclose(tensor, 0.5, atol=0.02)


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 1000))
def test_agrees_with_pillow_on_8_bit_images_up_to_its_rounding(rows: int, columns: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(image).resize((12, 9), Image.Resampling.BILINEAR)) / 255
    ours = to_model_input(image / 255, specification(height=9, width=12))[0]
    assert np.abs(ours - pillow).max() <= 2 / 255
    assert ours.min() >= image.min() / 255 - 1e-6
    assert ours.max() <= image.max() / 255 + 1e-6


@pytest.mark.parametrize("pixels", [np.zeros((3, 4, 4)), np.zeros((0, 4)), np.zeros(5), np.full((4, 4), np.nan)])
def test_refuses_what_is_not_one_finite_grey_image(pixels: NDArray[np.float64]) -> None:
    with pytest.raises(ImageError):
        to_model_input(pixels, specification())
