"""Pictures are read in confined processes, as everywhere; tests of the decoders themselves may do without."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.model_card import InputSpecification
from imaging import reading
from imaging.formats import DecodedFile, FileFormat, Limits, open_bounded
from imaging.isolation.confined import decode


class ReaderInProcess:
    """Stands for `IsolatedReader` where a test looks into the decoders, or reads hundreds of files."""

    def read_picture(
        self, path: Path, specification: InputSpecification, limits: Limits, *, with_values: bool
    ) -> tuple[FileFormat, DecodedFile]:
        with open_bounded(path, limits) as file:
            return decode(io.BytesIO(file.read()), specification, limits)


@pytest.fixture(scope="module")
def in_process() -> Iterator[None]:
    """Read in the process of the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "APART", ReaderInProcess())
        yield
