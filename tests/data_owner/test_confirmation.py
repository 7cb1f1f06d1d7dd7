"""What a person has to say about a picture before it is submitted, and what the answer keeps of it."""

from pathlib import Path

import numpy as np
import pytest

from contract.errors import NeedsConfirmation
from data_owner.diagnosis import Warned
from data_owner.submission import require_confirmed
from imaging.formats import Polarity
from imaging.reading import read_image
from tests.end_to_end.federation import Federation
from tests.end_to_end.models import SIDE
from tests.imaging.samples import picture, png_bytes, specification


def test_a_png_asks_whether_it_is_a_negative_and_what_was_said_stays_with_the_image(
    federation: Federation, tmp_path: Path
) -> None:
    path = tmp_path / "chest.png"
    path.write_bytes(png_bytes(picture(rows=SIDE, columns=SIDE).astype(np.uint8)))
    with federation.diagnoser() as (diagnoser, _):
        entry = diagnoser.choose_model(None)
        with pytest.raises(NeedsConfirmation) as caught:
            diagnoser.read(path, entry, force=False)
        assert str(caught.value) == (
            "PNG files do not say whether the picture is a negative; look at it with "
            "`data-owner inspect FILE --preview seen.png`, then add --as-is or --invert"
        )
        for force, said in ((False, Polarity.AS_READ), (True, None), (False, Polarity.INVERTED)):
            image = diagnoser.read(path, entry, force=force, polarity=said).image
            expected = 255 - picture(rows=SIDE, columns=SIDE) if said is Polarity.INVERTED else picture(rows=SIDE)
            np.testing.assert_allclose(image.tensor[0], (expected / 255 - 0.5) / 0.25, atol=1e-5)
            kept = Warned.from_submitted(image.warnings[0])
            assert kept.words == {
                Polarity.AS_READ: "PNG files do not say whether the picture is a negative; it was taken as it is",
                Polarity.INVERTED: "bright and dark were exchanged, as you asked",
                None: "PNG files do not say whether the picture is a negative (you submitted it anyway)",
            }.get(said)


def test_several_doubts_are_told_together_with_all_that_answers_them(tmp_path: Path) -> None:
    path = tmp_path / "blank.png"
    path.write_bytes(png_bytes(np.full((8, 8), 7, np.uint8)))
    with pytest.raises(NeedsConfirmation, match=r"negative; every pixel .*, then add --as-is or --invert, and --force"):
        require_confirmed(read_image(path, specification()), force=False)
    with pytest.raises(NeedsConfirmation, match=r"same value; submit it anyway with --force$"):
        require_confirmed(read_image(path, specification(), polarity=Polarity.INVERTED), force=False)
    require_confirmed(read_image(path, specification()), force=True)
