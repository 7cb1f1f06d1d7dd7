"""How a secret would be recognised among bytes that somebody sent or kept."""

import numpy as np
from numpy.typing import NDArray

from secure_computation.engines.crypten.engine import SCALE

SCALES = (SCALE, 1 << 12, *(1 << bits for bits in range(7, 12)))
"""Of fixed point, in both engines."""


def forms(values: NDArray[np.float32]) -> list[bytes]:
    """How a tensor would be recognised: floats, and fixed point at scales of both engines; pieces of 24 bytes."""
    wide = values.astype(np.float64)
    whole = [values.astype("<f4"), values.astype("<f8"), values.astype("<f2")]
    whole += [np.rint(wide * scale).astype(kind) for scale in SCALES for kind in ("<i8", "<i4")]
    texts = [text for array in whole for text in (array.tobytes(), (-array).tobytes())]
    return [text[at : at + 24] for text in texts for at in range(0, max(1, len(text) - 24), max(24, len(text) // 8))]
