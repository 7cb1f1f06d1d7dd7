"""A letter as Flower carries it: a `RecordDict` of two `ConfigRecord`s.

Everything received is checked here before it is used: types, number and total length. No pickle, no arrays whose shape
the sender chooses.
"""

import json

from flwr.app import ConfigRecord, RecordDict

from contract.errors import PeerViolation
from federated_learning.rounds.letters import Letter

HEADER, PARTS, TEXT = "header", "parts", "json"
MAX_HEADER_BYTES = 1 << 20
MAX_PARTS = 1000


def to_records(letter: Letter) -> RecordDict:
    """As Flower's content."""
    header = ConfigRecord({TEXT: json.dumps(letter.header)})
    return RecordDict({HEADER: header, PARTS: ConfigRecord({str(name): part for name, part in letter.parts.items()})})


def from_records(records: RecordDict, *, max_bytes: int) -> Letter:
    """Check and unpack. Raises PeerViolation: `max_bytes` is for all parts together."""
    header, parts = records.get(HEADER), records.get(PARTS)
    if set(records) != {HEADER, PARTS} or not (isinstance(header, ConfigRecord) and isinstance(parts, ConfigRecord)):
        raise PeerViolation("a message has another form than this version's: run the same version on both sides")
    text, received = header.get(TEXT), dict(parts)
    if not isinstance(text, str) or len(text) > MAX_HEADER_BYTES or len(received) > MAX_PARTS:
        raise PeerViolation("a message's header is missing or too long: run the same version on both sides")
    checked: dict[str, bytes] = {}
    for name, value in received.items():
        if not isinstance(value, bytes):
            raise PeerViolation("a message's part is not bytes: run the same version on both sides")
        checked[name] = value
    if sum(map(len, checked.values())) > max_bytes:
        raise PeerViolation(f"a message is longer than the {max_bytes} bytes that this model needs")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise PeerViolation("a message's header is not JSON: run the same version on both sides") from None
    if not isinstance(content, dict):
        raise PeerViolation("a message's header is not an object: run the same version on both sides")
    return Letter(header=content, parts=checked)
