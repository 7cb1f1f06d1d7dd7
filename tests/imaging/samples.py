"""Small images in every format, made here."""

import io
import struct
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from contract.model_card import AgeRange, ColourChoice, FrameChoice, InputSpecification, Modality, View, Window


def specification(
    *,
    side: int = 16,
    window: Window | None = None,
    frame: FrameChoice = FrameChoice.ONLY,
    colour: ColourChoice = ColourChoice.REFUSE,
    ages: AgeRange | None = None,
    views: tuple[View, ...] = (),
) -> InputSpecification:
    return InputSpecification(
        ages=ages,
        views=views,
        frame=frame,
        colour=colour,
        modalities=(Modality.DX, Modality.CR),
        body_parts=("CHEST",),
        height=side,
        width=side,
        window=window,
        mean=(0.5,),
        standard_deviation=(0.25,),
    )


def picture(*, rows: int = 24, columns: int = 32, seed: int = 0, bits: int = 8) -> NDArray[np.uint16]:
    values = np.random.default_rng(seed).integers(0, 1 << bits, (rows, columns), dtype=np.uint16)
    values[0, 0], values[0, 1] = 0, (1 << bits) - 1
    return values


def data_set(
    stored: NDArray[np.integer], *, bits: int = 8, changes: dict[str, object] | None = None, **tags: object
) -> Dataset:
    """A complete DX data set with these stored values, changed by `changes` and `tags` (None deletes one)."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    made.SOPInstanceUID = UID("2.25.1")
    made.PatientName, made.PatientAge = "Secret^Name", "004Y"
    made.Modality, made.BodyPartExamined = "DX", "CHEST"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = stored.shape
    made.BitsAllocated = 8 if bits <= 8 else 16
    made.BitsStored, made.HighBit = bits, bits - 1
    made.PixelRepresentation = int(stored.min() < 0)
    made.PixelData = stored.astype("<i2" if bits > 8 else "i1" if stored.min() < 0 else "u1").tobytes()
    if len(made.PixelData) % 2:
        made.PixelData += b"\0"
    made["PixelData"].VR = "OW" if bits > 8 else "OB"
    for keyword, value in ((changes or {}) | tags).items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def colour_picture(*, rows: int = 24, columns: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


def colour_data_set(colours: NDArray[np.uint8], **tags: object) -> Dataset:
    """A complete data set of 8-bit colours, pixel by pixel."""
    made = data_set(colours[..., 0].astype(np.uint16), changes=dict(tags))
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.PixelData = colours.tobytes()
    return made


def palette_data_set(indices: NDArray[np.uint8], palette: NDArray[np.uint16], **tags: object) -> Dataset:
    """A complete data set of indices into a table of 16-bit colours, (entries, 3)."""
    made = data_set(indices.astype(np.uint16), changes=dict(tags))
    made.PhotometricInterpretation = "PALETTE COLOR"
    for column, colour in enumerate(("Red", "Green", "Blue")):
        setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [len(palette) % 65536, 0, 16])
        setattr(made, f"{colour}PaletteColorLookupTableData", palette[:, column].astype("<u2").tobytes())
    return made


def compressed(made: Dataset, frame: bytes, syntax: str, *, table: bytes = b"") -> bytes:
    """A file of this data set whose pixels are one compressed frame, after a table of offsets."""
    return in_items(made, [table, frame], syntax)


def in_items(made: Dataset, contents: list[bytes], syntax: str) -> bytes:
    """A file of this data set whose compressed pixels are these items, a table of offsets first where there is one."""
    padded = [content + b"\0" * (len(content) % 2) for content in contents]
    items = [b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content for content in padded]
    made.PixelData = b"".join(items)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = UID(syntax)
    return dicom_bytes(made)


def dicom_bytes(made: Dataset) -> bytes:
    target = io.BytesIO()
    made.save_as(target, enforce_file_format=True)
    return target.getvalue()


def with_transfer_syntax(file: bytes, uid: str) -> bytes:
    """The same file with another transfer syntax written in its header, of the same even length."""
    old = ExplicitVRLittleEndian.encode() + b"\0"
    new = uid.encode() + b"\0" * (len(uid) % 2)
    length = struct.pack("<H", len(new))
    at = file.index(b"UI" + struct.pack("<H", len(old)) + old)
    group_length = struct.unpack_from("<I", file, 140)[0] + len(new) - len(old)
    changed = file[:at] + b"UI" + length + new + file[at + 4 + len(old) :]
    return changed[:140] + struct.pack("<I", group_length) + changed[144:]


def png_bytes(values: NDArray[np.generic], *, mode: str | None = None) -> bytes:
    target = io.BytesIO()
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(target, "PNG")
    return target.getvalue()


def tiff_bytes(pages: list[NDArray[Any]]) -> bytes:
    target = io.BytesIO()
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(target, "TIFF", save_all=True, append_images=others)
    return target.getvalue()


def volume(*, shape: tuple[int, ...] = (5, 6, 7), seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-1000, 1000, shape, dtype=np.int16)


def nifti_bytes(
    values: NDArray[Any],
    *,
    affine: NDArray[np.float64] | None = None,
    kind: type[nibabel.Nifti1Image] = nibabel.Nifti1Image,
) -> bytes:
    content: bytes = kind(values, np.eye(4) if affine is None else affine).to_bytes()
    return content


def png_file(
    lines: list[bytes],
    *,
    columns: int,
    rows: int,
    bits: int,
    colour: int,
    interlaced: bool = False,
    chunks: Mapping[str, bytes] = MappingProxyType({}),
) -> bytes:
    """A PNG of these lines of packed samples, with further chunks before them, by name."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">2I5B", columns, rows, bits, colour, 0, 0, int(interlaced))
    further = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    content = zlib.compress(b"".join(b"\0" + line for line in lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + further + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def huge_png_header(*, rows: int, columns: int) -> bytes:
    """A PNG that claims a size and carries a few bytes."""
    return png_file([bytes(99)], columns=columns, rows=rows, bits=8, colour=0)
