"""Which files are read: tries a file of every kind, and writes the tables of docs/images.md.

DICOM files in every transfer syntax are made by GDCM, odd ones by `dicom_kinds`, other formats' by `raster_kinds`.

python -m tests.imaging.make_table
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType

import gdcm
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UID

from contract.errors import ImageError
from contract.model_card import ColourChoice, InputSpecification
from imaging.formats import FileFormat
from imaging.reading import read_image
from tests.imaging import dicom_kinds, drawn
from tests.imaging.forgiven_dicom import KINDS as KINDS_OF_DICOM
from tests.imaging.raster_kinds import KINDS as KINDS_OF_RASTER
from tests.imaging.samples import (
    colour_data_set,
    compressed,
    data_set,
    dicom_bytes,
    palette_data_set,
    specification,
    with_transfer_syntax,
)

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "images.md"
BEGIN, END = "<!-- {}: begin, written by tests/imaging/make_table.py -->\n", "<!-- {}: end -->\n"
SAID_OF_ALL = ("modality-unknown", "polarity-unknown")
"""Warnings that go with a format, and not with a kind of file."""

SYNTAXES: dict[str, int | None] = {
    "1.2.840.10008.1.2": gdcm.TransferSyntax.ImplicitVRLittleEndian,
    "1.2.840.10008.1.2.1": gdcm.TransferSyntax.ExplicitVRLittleEndian,
    "1.2.840.10008.1.2.2": gdcm.TransferSyntax.ExplicitVRBigEndian,
    "1.2.840.10008.1.2.1.99": gdcm.TransferSyntax.DeflatedExplicitVRLittleEndian,
    "1.2.840.10008.1.2.5": gdcm.TransferSyntax.RLELossless,
    "1.2.840.10008.1.2.4.50": gdcm.TransferSyntax.JPEGBaselineProcess1,
    "1.2.840.10008.1.2.4.51": gdcm.TransferSyntax.JPEGExtendedProcess2_4,
    "1.2.840.10008.1.2.4.57": gdcm.TransferSyntax.JPEGLosslessProcess14,
    "1.2.840.10008.1.2.4.70": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "1.2.840.10008.1.2.4.80": gdcm.TransferSyntax.JPEGLSLossless,
    "1.2.840.10008.1.2.4.81": gdcm.TransferSyntax.JPEGLSNearLossless,
    "1.2.840.10008.1.2.4.90": gdcm.TransferSyntax.JPEG2000Lossless,
    "1.2.840.10008.1.2.4.91": gdcm.TransferSyntax.JPEG2000,
    "1.2.840.10008.1.2.4.201": None,
    "1.2.840.10008.1.2.4.100": None,
}
"""By what GDCM calls it; None: GDCM cannot write it, and only the header says so."""
MOST_BITS = {"1.2.840.10008.1.2.4.50": 8, "1.2.840.10008.1.2.4.51": 12}
"""Of a value in JPEG's lossy kinds. GDCM tries more, and what it then writes or refuses is left to chance."""
HIGH_THROUGHPUT = "1.2.840.10008.1.2.4.201"
"""Written by OpenJPH instead, in grey."""
KINDS: dict[str, tuple[str, int]] = {
    "grey, 8 bits": ("MONOCHROME2", 8),
    "grey, 12 bits": ("MONOCHROME1", 12),
    "grey, 16 bits": ("MONOCHROME2", 16),
    "RGB": ("RGB", 8),
    "YBR_FULL": ("YBR_FULL", 8),
    "PALETTE COLOR": ("PALETTE COLOR", 8),
}
CARD = specification(colour=ColourChoice.LUMINANCE)
TOLERANCE = 0.05
"""Of 1: what a lossy compression may change in a smooth picture."""


def smooth(bits: int) -> NDArray[np.uint16]:
    rows, columns = np.mgrid[0:32, 0:40]
    return np.asarray((rows + columns) * ((1 << bits) - 1) // 70, np.uint16)


def plain(photometric: str, bits: int) -> Dataset:
    """A file of this kind that is not compressed."""
    if photometric == "PALETTE COLOR":
        table = np.linspace(0, 65280, 256).astype(np.uint16)
        return palette_data_set(smooth(8).astype(np.uint8), np.stack([table, table, table[::-1]], axis=1))
    if photometric.startswith("MONOCHROME"):
        return data_set(smooth(bits), bits=bits, PhotometricInterpretation=photometric)
    values = smooth(8).astype(np.uint8)
    made = colour_data_set(np.dstack([values, values[::-1], values[:, ::-1]]))
    made.PhotometricInterpretation = photometric
    return made


def in_syntax(folder: Path, made: Dataset, syntax: str) -> bytes | None:
    """The same picture in another transfer syntax; None where GDCM cannot write it so."""
    if syntax == HIGH_THROUGHPUT:
        if made.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
            return None
        values = np.frombuffer(made.PixelData, np.uint8 if made.BitsAllocated == 8 else "<u2")
        return compressed(made, bytes(imagecodecs.htj2k_encode(values.reshape(made.Rows, made.Columns))), syntax)
    if int(made.BitsStored) > MOST_BITS.get(syntax, 16):
        return None
    constant = SYNTAXES[syntax]
    if constant is None:
        return with_transfer_syntax(dicom_bytes(made), syntax)
    source, target = folder / "plain", folder / "written"
    source.write_bytes(dicom_bytes(made))
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(source))
    if not reader.Read():
        return None
    change.SetTransferSyntax(gdcm.TransferSyntax(constant))
    change.SetInput(reader.GetImage())
    if not change.Change():
        return None
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    return target.read_bytes() if writer.Write() else None


def outcome(folder: Path, made: Dataset, syntax: str) -> str:
    """`yes`, `no`, or a dash for what cannot be written. Raises AssertionError where it reads as another picture."""
    content = in_syntax(folder, made, syntax)
    if content is None:
        return "-"
    original, path = folder / "original", folder / "tried"
    original.write_bytes(dicom_bytes(made))
    path.write_bytes(content)
    try:
        image = read_image(path, CARD)
    except ImageError:
        return "no"
    np.testing.assert_allclose(image.pixels, read_image(original, CARD).pixels, atol=TOLERANCE, err_msg=syntax)
    return "yes"


def table() -> str:
    """Transfer syntaxes by what a pixel holds."""
    lines = [f"| transfer syntax | {' | '.join(KINDS)} |", f"| --- {'| --- ' * len(KINDS)}|"]
    with tempfile.TemporaryDirectory() as name:
        for syntax in SYNTAXES:
            cells = [outcome(Path(name), plain(*kind), syntax) for kind in KINDS.values()]
            lines.append(f"| {UID(syntax).name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def dicom_table() -> str:
    """What happens with each odd kind of DICOM file."""
    return drawn_table(("kind",), (((name,), kind) for name, kind in KINDS_OF_DICOM.items()))


def kinds_table() -> str:
    """What happens with each kind of TIFF, PNG, JPEG and NIfTI file."""
    rows = (((group, name), kind) for group, kinds in KINDS_OF_RASTER.items() for name, kind in kinds.items())
    return drawn_table(("format", "kind"), rows)


def drawn_table(heads: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], dicom_kinds.Kind | drawn.Kind]]) -> str:
    """What happens with each file, beside the cells that say which it is."""
    lines = [f"| {' | '.join(heads)} | what happens |", f"| {'--- | ' * len(heads)}--- |"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        for names, kind in rows:
            path.write_bytes(kind.make())
            lines.append(f"| {' | '.join(names)} | {what_happens(path, kind.card)} |")
    return "\n".join(lines) + "\n"


def what_happens(path: Path, card: InputSpecification) -> str:
    """That a file is read, with what is asked and remarked, or why it is refused."""
    try:
        image = read_image(path, card)
    except ImageError as error:
        return f"refused: {error}"
    of_all = () if image.format is FileFormat.DICOM else SAID_OF_ALL
    told = [warning for warning in image.warnings if warning.code not in of_all]
    return "; ".join(
        ["read", *(f"{'asks' if warning.needs_confirmation else 'says'}: {warning.text}" for warning in told)]
    )


TABLES = MappingProxyType({"table": table, "odd": dicom_table, "kinds": kinds_table})
"""By their names in the document."""


def written(name: str) -> str:
    """A table as it stands in the document."""
    text = DOCUMENT.read_text()
    return text[text.index(BEGIN.format(name)) + len(BEGIN.format(name)) : text.index(END.format(name))]


def main() -> None:
    """Write the tables into the document."""
    for name, make in TABLES.items():
        text = DOCUMENT.read_text()
        begin, end = BEGIN.format(name), END.format(name)
        DOCUMENT.write_text(text[: text.index(begin) + len(begin)] + make() + text[text.index(end) :])


if __name__ == "__main__":
    main()
