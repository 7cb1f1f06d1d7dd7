"""Files that cannot be diagnosed."""

from pathlib import Path

from tests.end_to_end.models import PATIENT
from tests.imaging.samples import (
    colour_data_set,
    colour_picture,
    data_set,
    dicom_bytes,
    huge_png_header,
    picture,
    png_bytes,
    with_transfer_syntax,
)


def bad_files(folder: Path) -> dict[Path, str]:
    """A file of each kind that cannot be diagnosed, and what is said of it."""
    grey = dicom_bytes(data_set(picture(), PatientName=PATIENT))
    content = {
        "notes.txt": (b"not an image\n" * 50, "not a PNG, JPEG, TIFF, DICOM or NIfTI"),
        "zero.dcm": (b"", "empty"),
        "no-pixels.dcm": (dicom_bytes(data_set(picture(), changes={"PixelData": None})), "no pixel data"),
        "truncated.dcm": (grey[:-100], "cut short"),
        "unknown-syntax.dcm": (with_transfer_syntax(grey, "1.2.3.4"), "unknown transfer syntax"),
        "colour.dcm": (dicom_bytes(colour_data_set(colour_picture())), "colour"),
        "colour.png": (png_bytes(colour_picture()), "colour"),
        "frames.dcm": (dicom_bytes(data_set(picture(), changes={"NumberOfFrames": 2})), "several pictures"),
        "scan.dcm": (dicom_bytes(data_set(picture(), changes={"Modality": "CT"})), "submit it anyway with --force"),
        "adult.dcm": (dicom_bytes(data_set(picture(), PatientAge="061Y")), "older than the model was made for"),
        "200-megapixels.png": (huge_png_header(rows=20_000, columns=10_000), "limit of 100 million"),
    }
    for name, (data, _) in content.items():
        (folder / name).write_bytes(data)
    return {folder / name: words for name, (_, words) in content.items()} | {folder / "absent.dcm": "No such file"}
