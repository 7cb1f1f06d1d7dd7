"""Messages as Flower carries them: nothing that a sender chooses goes unchecked."""

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import PeerViolation
from federated_learning.flower.records import HEADER, PARTS, TEXT, from_records, to_records
from federated_learning.rounds.letters import Letter


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8)), st.binary(max_size=64))
def test_what_was_sent_is_read(header: dict[str, object], content: bytes) -> None:
    letter = Letter(header=header, parts={"weights": content})
    assert from_records(to_records(letter), max_bytes=64) == letter


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({HEADER: ConfigRecord({TEXT: "{}"})}),
        RecordDict({HEADER: ConfigRecord(), PARTS: ConfigRecord()}),
        RecordDict({HEADER: ConfigRecord({TEXT: "[]"}), PARTS: ConfigRecord()}),
        RecordDict({HEADER: ConfigRecord({TEXT: "{"}), PARTS: ConfigRecord()}),
        RecordDict({HEADER: ConfigRecord({TEXT: "{}"}), PARTS: ConfigRecord({"weights": "text"})}),
        RecordDict({HEADER: ConfigRecord({TEXT: "{}"}), PARTS: ArrayRecord()}),
        RecordDict({HEADER: ConfigRecord({TEXT: "{}"}), PARTS: ConfigRecord(), "more": ConfigRecord()}),
        RecordDict({HEADER: ConfigRecord({TEXT: "{}"}), PARTS: ConfigRecord({"a": bytes(40), "b": bytes(40)})}),
        RecordDict({HEADER: ConfigRecord({TEXT: " " * (1 << 21)}), PARTS: ConfigRecord()}),
    ],
)
def test_other_forms_and_lengths_are_refused(records: RecordDict) -> None:
    with pytest.raises(PeerViolation):
        from_records(records, max_bytes=64)
