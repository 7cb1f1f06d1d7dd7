"""Both engines in one process: answers, cost, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import encrypted_inference as ei
from contract.errors import CallerError, ConfigurationError, ModelFileError
from tests.end_to_end.models import write_tiny_model

SHAPE = (1, 32, 32)
IMAGES: NDArray[np.float32] = np.random.default_rng(5).normal(size=(3, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model")) / "model.onnx"


@pytest.fixture(scope="module")
def model(onnx_file: Path) -> ei.Model:
    return ei.load(onnx_file, calibration=IMAGES)


@pytest.mark.parametrize("engine", ["masked", "crypten"])
def test_an_engines_logits_are_the_plain_models(model: ei.Model, engine: str) -> None:
    several = model.run(IMAGES[:2], engine=engine)
    assert several.logits is not None
    assert several.plain is not None
    assert several.error == np.abs(several.logits - several.plain).max()
    assert several.error
    assert several.error < 0.1
    np.testing.assert_array_equal(several.plain, model.compute_plain(IMAGES[:2]))
    one = model.run(torch.from_numpy(IMAGES[1]).requires_grad_(), engine=engine)
    assert one.logits is not None
    np.testing.assert_allclose(one.logits, several.plain[1], atol=0.1)


def test_the_cost_is_what_was_sent_and_weights_are_sent_once(onnx_file: Path) -> None:
    model = ei.load(str(onnx_file), calibration=IMAGES[0])
    first, second = model.run(IMAGES[0]).cost, model.run(IMAGES[0]).cost
    assert first.weights_bytes > 5 * second.weights_bytes  # which is the name of their version
    assert first.offline_bytes > second.offline_bytes > second.material_bytes > 0
    assert (first.online_bytes, first.one_way_trips) == (second.online_bytes, second.one_way_trips)
    both = model.run(IMAGES[:2]).cost
    assert both.material_bytes == 2 * second.material_bytes
    assert both.one_way_trips == second.one_way_trips  # one session
    apart = model.run(IMAGES[:2], engine="crypten").cost
    single = model.run(IMAGES[0], engine="crypten").cost
    assert apart == single + single


def test_no_repr_shows_a_value(model: ei.Model) -> None:
    answer = model.run(IMAGES[0])
    assert answer.logits is not None
    shown = repr(answer) + repr(model) + repr(answer.cost)
    assert "logits (3,)" in shown
    assert [value for value in answer.logits if f"{value:.3g}" in shown or repr(float(value)) in shown] == []


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES[0, 0], r"shape \(32, 32\): give \(1, 32, 32\), or \(images, 1, 32, 32\)"),
        (np.zeros((0, *SHAPE)), r"shape \(0, 1, 32, 32\)"),
        (np.zeros((2, 2, *SHAPE)), "shape"),
        (np.full(SHAPE, np.nan), "image 0 holds NaN"),
        (np.stack([np.zeros(SHAPE), np.full(SHAPE, -np.inf)]), "image 1 holds NaN, an infinity"),
        (np.full(SHAPE, 1e300), "beyond float32"),
        (np.zeros(SHAPE, dtype=complex), "complex128, not real numbers"),
        ("chest.png", "not real numbers"),
        ([[1.0], [1.0, 2.0]], "no array"),
        (None, "not real numbers"),
    ],
)
def test_what_is_no_image_of_the_model_is_refused(model: ei.Model, images: Any, words: str) -> None:
    with pytest.raises(CallerError, match=words):
        model.run(images)
    with pytest.raises(CallerError, match=words):
        model.compute_plain(images)


def test_an_image_unlike_those_for_calibration_is_refused_where_the_answer_would_be_wrong(model: ei.Model) -> None:
    with pytest.raises(CallerError, match="image 1 holds values, or leads to some, far beyond those of the images for"):
        model.run(np.stack([IMAGES[0], 500 * IMAGES[0]]), engine="masked")
    far = model.run(500 * IMAGES[0], engine="crypten")
    assert far.error is not None
    assert far.error < 0.5


@pytest.mark.parametrize("engine", ["masked", "crypten"])
@pytest.mark.parametrize("factor", [1e6, 1e15, 1e30])
def test_an_image_too_large_for_both_engines_is_refused_and_neither_advised(
    model: ei.Model, engine: str, factor: float
) -> None:
    with pytest.raises(CallerError, match=r"image 0 holds values, or leads to .* of this kind$"):
        model.run(np.float32(factor) * IMAGES[0], engine=engine)


@pytest.mark.parametrize("images", [np.zeros((2, *SHAPE)), np.full((1, *SHAPE), 3.0)])
def test_calibration_images_that_say_nothing_are_refused(onnx_file: Path, images: Any) -> None:
    with pytest.raises(CallerError, match="the images for calibration hold one value everywhere"):
        ei.load(onnx_file, calibration=images)


def test_an_engine_that_cannot_run_a_model_says_why(
    onnx_file: Path, model: ei.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CallerError, match="there is no engine 'fast': choose crypten or masked"):
        model.run(IMAGES[0], engine="fast")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "crypten", None)
        without = ei.load(onnx_file, calibration=IMAGES)
    assert without.engines == ("masked",)
    assert "engine masked>" in repr(without)
    with pytest.raises(CallerError, match=r"'crypten' cannot run this model: .* pip install --no-deps crypten==0.4.1"):
        without.run(IMAGES[0], engine="crypten")

    def refuse(*_arguments: object) -> None:
        raise ModelFileError("layer 'c' needs 33 bits")

    monkeypatch.setattr("encrypted_inference.model.lower_within_budget", refuse)
    other = ei.load(onnx_file, calibration=IMAGES)
    assert other.engines == ("crypten",)
    with pytest.raises(CallerError, match="the engine 'masked' cannot run this model: layer 'c' needs 33 bits"):
        other.run(IMAGES[0], engine="masked")


def test_an_engines_name_may_be_left_out_and_not_be_empty(model: ei.Model) -> None:
    with pytest.raises(CallerError, match="engine"):
        model.run(IMAGES[0], engine="")


def test_calibration_images_whose_squares_overflow_are_no_traceback(onnx_file: Path) -> None:
    with pytest.raises(CallerError, match="too large on the calibration images: give images scaled as those of the"):
        ei.load(onnx_file, calibration=np.float32(1e28) * IMAGES).run(IMAGES[0], engine="masked")


def test_what_is_no_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CallerError, match="give the path of an ONNX file or a torch module"):
        ei.load(IMAGES, calibration=IMAGES)  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match=r"absent\.onnx cannot be read"):
        ei.load(tmp_path / "absent.onnx", calibration=IMAGES)
    with pytest.raises(CallerError, match="the images for calibration are no array"):
        ei.load(nn.Identity(), calibration=IMAGES[0, 0])
    monkeypatch.setattr("encrypted_inference.model.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match="pip install onnxscript"):
        ei.load(nn.Identity(), calibration=IMAGES)


class Choice(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


@pytest.mark.slow
def test_a_module_that_cannot_be_traced_is_refused_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelFileError, match="no choice that depends on the image"):
        ei.load(Choice(), calibration=IMAGES)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_module_of_other_numbers_is_loaded_in_float32(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 2)).to(dtype)
    answer = ei.load(module, calibration=IMAGES).run(IMAGES[0], engine="masked")
    assert answer.error is not None
    assert answer.error < 0.1
    assert next(module.parameters()).dtype == dtype, "the caller's own module stays as it is"


@pytest.mark.slow
def test_a_module_that_cannot_be_computed_under_encryption_is_refused_with_advice() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Softplus(), nn.Flatten(), nn.Linear(72, 2))
    with pytest.raises(ModelFileError, match="Softplus"):
        ei.load(module, calibration=np.zeros((2, 1, 8, 8)))
    with pytest.raises(ModelFileError, match="could not be traced into ONNX: use plain tensor operations"):
        ei.load(module, calibration=np.zeros((2, 3, 8, 8)))
