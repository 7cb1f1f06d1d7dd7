"""A phantom chest radiograph, drawn from shapes: the picture for demonstrations and tests, of nobody at all."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

Plane = NDArray[np.float64]

_BITS = 12
_UID_ROOT = "2.25."  # identifiers derived from a number, for anybody to use (PS3.5 B.2)


def draw_phantom(*, seed: int, side: int = 1024) -> Plane:
    """Draw a frontal chest film: float64, shape (side, side), values in [0, 1], bone bright and air dark.

    Depths of tissue, bone and air along each ray are added up, as X-rays do, then shown on the film's curve. The same
    seed gives the same picture.
    """
    random = np.random.default_rng(seed)
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(axis, axis)
    stretch = 1 + random.uniform(-0.04, 0.04)
    x = x / stretch
    edges = 0.02

    trunk = _inside(x / (0.86 + 0.10 * _step(y, 0.1, 0.6)), (y - 0.55) / 1.33, power=3.2, edge=0.05)
    neck = 0.9 * _inside(x / 0.21, (y + 1.0) / 0.60, power=4, edge=0.12)
    shoulders = _step(y - 0.26 * np.abs(x), -1.0, -0.9) * (1 - _step(y, -0.1, 0.5))
    body = np.maximum.reduce([trunk, neck, shoulders * (1 - _step(np.abs(x) + 0.2 * y, 0.9, 1.0))])
    lungs = _lungs(x, y, edges)
    tissue = 1.00 * body - 0.62 * lungs
    tissue += 0.10 * _step(y, 0.35, 0.95) * body  # the abdomen is thicker
    tissue += _heart_and_vessels(x, y, random)
    tissue += _lung_markings(x, y, lungs, random)
    bone = _ribs(x, y, lungs) + _spine(x, y) + _clavicles(x, y)
    density = tissue + bone * body
    density += 0.05 * _smooth_noise(random, side, cells=6) * body + 0.02 * _smooth_noise(random, side, cells=40)
    density += random.normal(0, 0.012, (side, side))
    film: Plane = 1 - np.exp(-1.25 * np.clip(density - 0.02, 0, None))
    return np.clip(film / np.quantile(film, 0.998), 0, 1, out=film)


def write_phantom(path: Path, *, seed: int = 1, side: int = 1024) -> None:
    """Write the phantom as a digital radiograph: DICOM DX, 12 bits, MONOCHROME1 (small values are bright), CHEST."""
    largest = (1 << _BITS) - 1
    stored = np.rint((1 - draw_phantom(seed=seed, side=side)) * largest).astype("<u2")
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.SOPClassUID = DigitalXRayImageStorageForPresentation
    for level, keyword in enumerate(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), start=1):
        setattr(data_set, keyword, UID(f"{_UID_ROOT}{(level << 64) + seed}"))
    data_set.PatientName, data_set.PatientID = "Phantom^Drawn", "PHANTOM"
    data_set.PatientBirthDate = data_set.PatientSex = data_set.StudyDate = data_set.StudyTime = ""
    data_set.PatientAge = "004Y"  # age and view as the shipped model asks
    data_set.AccessionNumber = data_set.StudyID = data_set.ReferringPhysicianName = ""
    data_set.Manufacturer = "drawn by a program"
    data_set.SeriesNumber, data_set.InstanceNumber = 1, 1
    data_set.Modality, data_set.BodyPartExamined, data_set.ViewPosition = "DX", "CHEST", "AP"
    data_set.ImageType = ["ORIGINAL", "PRIMARY"]
    data_set.PresentationIntentType = "FOR PRESENTATION"
    data_set.PixelIntensityRelationship, data_set.PixelIntensityRelationshipSign = "LOG", 1
    data_set.PresentationLUTShape = "INVERSE"
    data_set.BurnedInAnnotation, data_set.LossyImageCompression = "NO", "00"
    data_set.ImageLaterality, data_set.PatientOrientation = "U", ["L", "F"]
    data_set.RescaleIntercept, data_set.RescaleSlope, data_set.RescaleType = 0, 1, "US"
    data_set.ImagerPixelSpacing = [round(400 / side, 4)] * 2
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME1"
    data_set.Rows = data_set.Columns = side
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit, data_set.PixelRepresentation = (
        16,
        _BITS,
        _BITS - 1,
        0,
    )
    data_set.WindowCenter, data_set.WindowWidth = 1 << (_BITS - 1), 1 << _BITS
    data_set.PixelData = stored.tobytes()
    data_set.save_as(path, enforce_file_format=True)


def _step(values: Plane, low: float, high: float) -> Plane:
    """0 below `low`, 1 above `high`, smooth in between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _inside(x: Plane, y: Plane, *, power: float, edge: float) -> Plane:
    """1 inside the unit super-ellipse, 0 outside, smooth over `edge`."""
    radius: Plane = (np.abs(x) ** power + np.abs(y) ** power) ** (1 / power)
    return 1 - _step(radius, 1 - edge, 1 + edge)


def _ellipse(
    x: Plane, y: Plane, center: tuple[float, float], radii: tuple[float, float], *, edge: float, turn: float = 0.0
) -> Plane:
    """1 inside an ellipse turned by `turn` radians, smooth over `edge` of its radius."""
    dx, dy = x - center[0], y - center[1]
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    return _inside(along / radii[0], across / radii[1], power=2, edge=edge)


def _lungs(x: Plane, y: Plane, edge: float) -> Plane:
    """Both lung fields: narrow tops, wide bases cut by the domes of the diaphragm, the left notched by the heart."""
    right = _inside((x + 0.42) / (0.30 + 0.07 * _step(y, -0.6, 0.4)), (y + 0.02) / 0.74, power=2.5, edge=3 * edge)
    left = _inside((x - 0.43) / (0.29 + 0.07 * _step(y, -0.6, 0.4)), (y + 0.02) / 0.74, power=2.5, edge=3 * edge)
    right_dome = _ellipse(x, y, (-0.42, 0.86), (0.46, 0.42), edge=3 * edge)
    left_dome = _ellipse(x, y, (0.45, 0.92), (0.44, 0.42), edge=3 * edge)
    return np.clip(right * (1 - right_dome) + left * (1 - left_dome), 0, 1)


def _heart_and_vessels(x: Plane, y: Plane, random: np.random.Generator) -> Plane:
    """The mediastinum: heart to the picture's right, arch of the aorta, windpipe (air), and the roots of the lungs."""
    size = 1 + random.uniform(-0.06, 0.06)
    heart = _ellipse(x, y, (0.15, 0.32), (0.38 * size, 0.27 * size), edge=0.14, turn=0.55)
    right_edge = _ellipse(x, y, (-0.07, 0.26), (0.14, 0.24), edge=0.25)
    vessels = _inside(x / 0.13, (y + 0.10) / 0.60, power=3, edge=0.25)
    arch = _ellipse(x, y, (0.11, -0.22), (0.11, 0.11), edge=0.3)
    roots = _ellipse(np.abs(x - 0.02), y, (0.22, 0.02), (0.10, 0.16), edge=0.8)
    windpipe = _inside((x + 0.01) / 0.05, (y + 0.62) / 0.45, power=4, edge=0.3)
    core: Plane = np.maximum.reduce([heart, right_edge, 0.85 * vessels, 0.8 * arch])
    return 0.50 * core + 0.14 * roots - 0.20 * windpipe


def _lung_markings(x: Plane, y: Plane, lungs: Plane, random: np.random.Generator) -> Plane:
    """Branching vessels that leave the roots of the lungs and thin out towards the edges."""
    markings = np.zeros_like(x)
    for side in (-1.0, 1.0):
        for _ in range(16):
            angle = random.uniform(-1.25, 1.25)
            reach, width, bend = random.uniform(0.25, 0.5), random.uniform(0.010, 0.020), random.uniform(-0.35, 0.35)
            dx, dy = (x - side * 0.20) * side, y - 0.02
            along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
            across = across - bend * along**2
            thickness = width * np.clip(1 - along / reach, 0.15, 1)
            fade = _step(along, 0.0, 0.05) * (1 - _step(along, 0.5 * reach, reach))
            markings += np.exp(-((across / thickness) ** 2)) * fade
    return 0.10 * np.clip(markings, 0, 1.6) * lungs


def _ribs(x: Plane, y: Plane, lungs: Plane) -> Plane:
    """Nine pairs: the back of each rib falls gently outwards, the front falls steeply inwards."""
    ribs = np.zeros_like(x)
    across = np.abs(x)
    cage = 1 - _step(across, 0.78, 0.86)
    for number in range(9):
        top = -0.74 + 0.155 * number
        width = 0.030 + 0.001 * number
        back = y - (top + 0.10 * across - 0.62 * np.clip(0.30 - across, 0, None) ** 2 + 0.55 * across**3)
        ribs += 0.8 * _bar(back, width) * _step(across, 0.08, 0.16) * cage
        front = y - (top + 0.52 - 0.50 * across)
        ribs += 0.45 * _bar(front, 1.1 * width) * _step(across, 0.30, 0.45) * cage
    return 0.17 * np.clip(ribs, 0, 1.3) * (0.45 + 0.55 * lungs) * (1 - _step(y, 0.62, 0.85))


def _bar(distance: Plane, half_width: float) -> Plane:
    """A tube seen by X-rays: dense at its two edges, lighter along its middle."""
    t = np.abs(distance) / half_width
    return (1 - _step(t, 0.75, 1.15)) * (0.65 + 0.35 * t**2)


def _spine(x: Plane, y: Plane) -> Plane:
    """A column of vertebral bodies, with the gaps of the discs between them."""
    column = _inside(x / 0.085, y / 3, power=6, edge=0.3)
    discs = 0.5 + 0.5 * np.cos(2 * np.pi * (y + 1) / 0.145)
    processes = np.exp(-((x / 0.02) ** 2)) * (1 - discs)
    return column * (0.15 - 0.08 * discs**4) + 0.06 * processes


def _clavicles(x: Plane, y: Plane) -> Plane:
    """Two collar bones in a shallow S, rising outwards."""
    across = np.abs(x)
    center = -0.62 - 0.22 * (across - 0.08) + 0.03 * np.sin(6 * across)
    return 0.24 * _bar(y - center, 0.032) * _step(across, 0.07, 0.11) * (1 - _step(across, 0.66, 0.76))


def _smooth_noise(random: np.random.Generator, side: int, *, cells: int) -> Plane:
    """Standard noise on a grid of `cells` a side, enlarged smoothly to the picture."""
    coarse = random.normal(size=(cells + 3, cells + 3)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
