"""`data-owner inspect`: without a network, in words and as JSON, with a preview for the clinician alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.errors import CallerError
from contract.model_card import read_card
from data_owner.command import read_polarity
from data_owner.inspection import Inspection, format_inspection, inspect_file
from demonstration.commands import make_command
from imaging.formats import Polarity
from imaging.reading import read_image
from tests.end_to_end.models import PATIENT, SIDE, write_tiny_model
from tests.imaging.samples import colour_data_set, colour_picture, data_set, dicom_bytes, picture, png_bytes, tiff_bytes


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    path = tmp_path / "chest.dcm"
    path.write_bytes(dicom_bytes(data_set(picture(), PatientName=PATIENT)))
    return path


def run(*words: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(
        make_command("data-owner", ["inspect", *(str(word) for word in words)]),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_what_would_be_submitted(chest: Path, tmp_path: Path) -> None:
    card = write_tiny_model(tmp_path / "model") / "card.json"
    preview = tmp_path / "seen.png"
    status, stdout, stderr = run(chest, "--card", card, "--preview", preview)
    assert (status, stderr) == (0, "")
    for words in (
        "DICOM, Explicit VR Little Endian, MONOCHROME2, 8 bits",
        "32 x 24 pixels",
        "1 x 32 x 32 values",
        "DX",
    ):
        assert words in stdout
    assert PATIENT not in stdout
    assert preview.stat().st_mode & 0o777 == 0o600
    with Image.open(preview) as image:
        assert image.size == (SIDE, SIDE)
    again = run(chest, "--preview", preview)
    assert again[0] == 2
    assert again[2] == f"data-owner: {preview}: exists already and is not overwritten; give the preview another name\n"


def test_a_file_that_is_refused_says_why(tmp_path: Path) -> None:
    colours = tmp_path / "colours.dcm"
    colours.write_bytes(dicom_bytes(colour_data_set(colour_picture())))
    card = write_tiny_model(tmp_path / "model") / "card.json"
    status, stdout, stderr = run(colours, "--card", card, "--json")
    shown = Inspection.model_validate_json(stdout)
    assert (status, shown.readable, shown.submitted) == (1, False, None)
    assert stderr == f"data-owner: {colours}: {shown.reason}\n"
    assert "colour picture" in (shown.reason or "")
    assert inspect_file(colours, None, None).readable


def test_wrong_usage() -> None:
    assert run("--absent")[0] == 2
    with pytest.raises(CallerError, match="--as-is and --invert exclude each other"):
        read_polarity(as_is=True, invert=True)


def test_a_preview_without_a_card_is_the_whole_picture(tmp_path: Path) -> None:
    path, preview = tmp_path / "pages.tiff", tmp_path / "seen.png"
    path.write_bytes(tiff_bytes([picture(bits=16, seed=seed) for seed in range(3)]))
    shown = inspect_file(path, None, preview)
    assert (shown.frame, shown.frames, shown.warnings) == (2, 3, ())
    with Image.open(preview) as image:
        np.testing.assert_allclose(np.asarray(image), picture(bits=16, seed=1) / 257, atol=0.51)


def test_without_a_card_nothing_is_said_of_what_a_model_was_made_for(chest: Path) -> None:
    chest.write_bytes(dicom_bytes(data_set(picture(), Modality="CT", changes={"ViewPosition": "LL"})))
    assert inspect_file(chest, None, None).warnings == ()


def test_warnings_are_those_of_diagnose(chest: Path, tmp_path: Path) -> None:
    card = read_card(write_tiny_model(tmp_path / "model") / "card.json")
    chest.write_bytes(dicom_bytes(data_set(picture(), Modality="CT")))
    shown = inspect_file(chest, card, None)
    assert [one.code for one in shown.warnings] == [one.code for one in read_image(chest, card.input).warnings]
    assert shown.needs_confirmation


@pytest.mark.parametrize(
    ("age", "fit", "words"),
    [
        ("004Y", "fits", "within the model's 1 to 5 years"),
        ("040Y", "outside", "outside the model's 1 to 5 years"),
        (None, "not-named", "not named; the model was made for 1 to 5 years"),
    ],
)
def test_the_patients_age_beside_the_models(chest: Path, tmp_path: Path, age: str | None, fit: str, words: str) -> None:
    card = read_card(write_tiny_model(tmp_path / "model") / "card.json")
    chest.write_bytes(dicom_bytes(data_set(picture(), changes={"PatientAge": age})))
    shown = inspect_file(chest, card, None)
    assert (shown.age, shown.needs_confirmation) == (fit, fit == "outside")
    assert words in format_inspection(shown)
    assert inspect_file(chest, None, None).age is None
    assert "40" not in format_inspection(shown)


def png(folder: Path, *, columns: int = 32) -> Path:
    path = folder / "chest.png"
    path.write_bytes(png_bytes(picture(columns=columns).astype(np.uint8)))
    return path


@pytest.mark.parametrize(("columns", "enlarged"), [(32, 8), (400, 1)])
def test_where_nobody_says_whether_it_is_a_negative_the_preview_shows_both_ways(
    tmp_path: Path, columns: int, enlarged: int
) -> None:
    chest, preview = png(tmp_path, columns=columns), tmp_path / "seen.png"
    shown = inspect_file(chest, None, preview)
    assert (shown.polarity_told_by, shown.polarity, shown.needs_confirmation) == ("nobody", None, True)
    with Image.open(preview) as image:
        sheet = np.asarray(image).astype(int)
    width, height = columns * enlarged, 24 * enlarged
    first = sheet[-16 - height : -16, 16 : 16 + width]
    second = sheet[-16 - height : -16, 32 + width : 32 + 2 * width]
    np.testing.assert_array_equal(first[::enlarged, ::enlarged], picture(columns=columns))
    np.testing.assert_array_equal(first + second, 255)
    labels = sheet[: -16 - height]
    assert (labels[:, : 16 + width] > 200).any()  # each picture has its words above it
    assert (labels[:, 32 + width :] > 200).any()
    assert f"look at it in {preview}, then add --as-is or --invert" in format_inspection(shown, preview)
    assert "data-owner inspect FILE --preview seen.png" in format_inspection(shown)


@pytest.mark.parametrize(("said", "code"), [(Polarity.AS_READ, "polarity-as-read"), (Polarity.INVERTED, "inverted")])
def test_what_the_user_says_of_bright_and_dark_is_previewed_and_told(tmp_path: Path, said: Polarity, code: str) -> None:
    preview = tmp_path / "seen.png"
    shown = inspect_file(png(tmp_path), None, preview, said)
    assert (shown.polarity, shown.needs_confirmation, [one.code for one in shown.warnings]) == (said, False, [code])
    with Image.open(preview) as image:
        np.testing.assert_array_equal(np.asarray(image), 255 - picture() if code == "inverted" else picture())


def test_the_options_say_it_on_the_command_line(tmp_path: Path) -> None:
    status, stdout, stderr = run(png(tmp_path), "--invert", "--json")
    assert (status, stderr) == (0, "")
    assert Inspection.model_validate_json(stdout).polarity is Polarity.INVERTED
    assert read_polarity(as_is=True, invert=False) is Polarity.AS_READ
    assert read_polarity(as_is=False, invert=False) is None


def test_inspecting_loads_neither_torch_nor_a_network_library(chest: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from data_owner.inspection import inspect_file; "
        f"inspect_file(Path({str(chest)!r}), None, None); "
        "print([name for name in ('torch', 'httpx', 'websockets', 'numba') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_preview_that_cannot_be_written(chest: Path, tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="cannot be written"):
        inspect_file(chest, None, tmp_path / "absent" / "seen.png")


def test_json_holds_nothing_of_the_patient(chest: Path) -> None:
    status, stdout, _ = run(chest, "--json")
    assert status == 0
    assert set(json.loads(stdout)) == set(Inspection.model_fields)
    assert PATIENT not in stdout
