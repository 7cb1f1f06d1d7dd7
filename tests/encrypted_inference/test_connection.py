"""Sessions of the researchers' library against servers."""

from pathlib import Path

import numpy as np
import pytest

import encrypted_inference as ei
from contract.errors import CallerError, ConfigurationError, PeerUnreachable
from demonstration.plaintext import PlaintextModel
from imaging.reading import read_model_input
from tests.encrypted_inference.settings import write_settings
from tests.end_to_end.federation import Federation, closed_port
from tests.end_to_end.models import DITHER


def test_an_image_is_evaluated_by_servers(federation: Federation, chest: Path, tmp_path: Path) -> None:
    with ei.connect(write_settings(federation, tmp_path / "data-owner.toml")) as hospital:
        image = hospital.read(chest)
        np.testing.assert_array_equal(image, read_model_input(chest, federation.model.card.input).tensor)
        images = np.stack([image, image[:, ::-1]])
        answer = hospital.run(images, engine="masked")
        expected = PlaintextModel(federation.folder / "model").logits_of_batch(images)
        assert answer.logits is not None
        assert (answer.plain, answer.error) == (None, None)
        np.testing.assert_allclose(answer.logits, expected, atol=DITHER)
        cost = answer.cost
        assert cost.offline_bytes > cost.material_bytes + cost.weights_bytes > cost.weights_bytes > 0
        with pytest.raises(CallerError, match="evaluates one image a session: give them one by one"):
            hospital.run(np.stack([image, image]), engine="crypten")
        with pytest.raises(CallerError, match=r"the images have shape \(32, 32\)"):
            hospital.run(image[0])
        with pytest.raises(CallerError, match="there is no engine 'fast'"):
            hospital.run(image, engine="fast")
        with pytest.raises(CallerError, match="no model other is in service"):
            hospital.run(image, model="other")


def test_who_cannot_be_reached_is_named(federation: Federation, tmp_path: Path) -> None:
    port = closed_port()
    settings = write_settings(federation, tmp_path / "data-owner.toml", url=f"http://127.0.0.1:{port}")
    with ei.connect(settings) as hospital:
        assert repr(hospital) == f"<Connection: data owner of the front end at http://127.0.0.1:{port}>"
        with pytest.raises(PeerUnreachable, match=f"{port}"):
            hospital.run(np.zeros((1, 32, 32)))
    with pytest.raises(ConfigurationError, match=r"absent\.toml"):
        ei.connect(tmp_path / "absent.toml")
