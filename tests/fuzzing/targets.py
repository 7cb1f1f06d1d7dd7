"""Readers of what comes from outside, each as a function of bytes that must either read them or refuse them.

Whatever else one raises is a finding. hypothesis calls them in the tests, atheris (`scripts/fuzz`) by the million.
"""

import io
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from authority.enrolment import create_request, read_request
from contract.errors import EncryptedInferenceError, ImageError, PeerDisconnected
from contract.identity import Party, Role
from contract.model_card import OutputPolicy, read_card
from contract.ticket import Engine, Purpose, TicketClaims, issue_ticket, verify_ticket
from federated_learning.secure_aggregation.coordinator_aggregation import CoordinatorAggregation
from federated_learning.secure_aggregation.history import RoundHistory
from federated_learning.secure_aggregation.hospital_aggregation import HospitalAggregation
from federated_learning.secure_aggregation.masking import RingVector
from federated_learning.secure_aggregation.terms import RoundTerms
from imaging.isolation.confined import decode
from imaging.isolation.messages import Picture
from imaging.isolation.reader import AnswerInvalid, Conversation
from model_owner.onnx_import.reading import read_onnx
from secure_computation.channel.channel import Channel, Deadlines
from secure_computation.channel.memory import MemoryStream
from secure_computation.channel.stream import Deadline
from secure_computation.plan import make_plan, parse_plan
from tests.end_to_end.models import INPUT, radiograph, write_tiny_model
from tests.federated_learning.secure_aggregation.rounds import make_terms, signing_keys
from tests.imaging.nifti_kinds import NIFTIS
from tests.imaging.tiff_kinds import TIFFS
from tests.secure_computation.networks import small_network

PEER = Party(role=Role.MODEL_OWNER, organisation="north-lab")
OWN = Party(role=Role.DATA_OWNER, organisation="st-mary")
DEADLINES = Deadlines(connect_seconds=1, step_seconds=1)
SHAPE = (4, 5)
AT_MOST = 64


@dataclass(frozen=True, kw_only=True)
class Target:
    """One reader."""

    read: Callable[[bytes], object]
    """Reads the bytes, or refuses them with an error of the tree."""
    sample: Callable[[], bytes]
    """Something well formed, which is read."""

    def call(self, data: bytes) -> None:
        """Raise what is neither reading nor refusing."""
        with suppress(EncryptedInferenceError):
            self.read(data)


def read_frames(data: bytes) -> None:
    """A channel on which these bytes come where a session's frames are due; the first byte says which are due first."""
    near, far = MemoryStream.pair()
    far.write([data[1:]], Deadline(peer="fuzzer", step="all", seconds=1))
    far.close()
    channel = Channel(near, peer=PEER, deadlines=DEADLINES)
    due: tuple[Callable[[], object], ...] = (
        lambda: channel.receive_hello(step="hello"),
        lambda: channel.receive_seed(step="seed"),
        lambda: channel.receive_tensor(SHAPE, np.int32, step="tensor"),
        lambda: channel.receive_bytes(24, step="bytes"),
        lambda: channel.receive_bytes_at_most(AT_MOST, step="at most"),
        lambda: channel.receive_end(step="end"),
    )
    first = data[0] if data else 0
    for turn in range(len(due)):
        due[(first + turn) % len(due)]()


def frames() -> bytes:
    """What an honest peer sends: each kind of frame once."""
    near, far = MemoryStream.pair()
    sender = Channel(near, peer=OWN, deadlines=DEADLINES)
    sender.send_hello({"items": ["a", 1, None]}, step="hello")
    sender.send_seed(bytes(32), step="seed")
    sender.send_tensor(np.zeros(SHAPE, np.int32), step="tensor")
    sender.send_bytes(bytes(24), step="bytes")
    sender.send_bytes(bytes(AT_MOST // 2), step="at most")
    sender.send_end(step="end")
    near.close()
    return b"\0" + b"".join(_rest(far))


def _rest(stream: MemoryStream) -> Iterator[bytes]:
    with suppress(PeerDisconnected):
        while True:
            yield bytes(stream.read_some(Deadline(peer="sender", step="all", seconds=1)))


def verify(data: bytes) -> None:
    """A ticket as a party is shown one."""
    key = _key().public_key()
    verify_ticket(data.decode("utf-8", "replace"), public_keys=[key], now=datetime.now(UTC), party=PEER)


@cache
def _key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def _of_file(read: Callable[[Path], object], name: str) -> Callable[[bytes], None]:
    """Readers that take a path: the same file, written anew each time."""
    folder = cache(lambda: Path(tempfile.mkdtemp(prefix="fuzzing-")))

    def call(data: bytes) -> None:
        path = folder() / name
        path.write_bytes(data)
        read(path)

    return call


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _model_file(name: str) -> Callable[[], bytes]:
    def sample() -> bytes:
        with _folder() as folder:
            return (write_tiny_model(folder) / name).read_bytes()

    return sample


def _radiograph() -> bytes:
    with _folder() as folder:
        return radiograph(folder / "chest.dcm").read_bytes()


def read_picture(data: bytes) -> None:
    """A picture's file, decoded in this process: only so is coverage seen."""
    decode(io.BytesIO(data), INPUT)


def read_decoded(data: bytes) -> None:
    """What the process answers that reads a picture's file."""
    ours, its = socket.socketpair()
    with ours:
        with its:
            its.sendall(data[: 1 << 16])
        try:
            answer, arrays = Conversation(ours, seconds=1).answer(max_pixels=1 << 16, last=True)
            if isinstance(answer, Picture):
                answer.decoded(arrays)
        except (AnswerInvalid, EOFError, ValueError) as error:
            raise ImageError("refused as imaging.isolation.reader refuses it") from error


def _decoded() -> bytes:
    file_format, decoded = decode(io.BytesIO(_radiograph()), INPUT)
    header = Picture.of(file_format, decoded, with_values=False).model_dump_json().encode()
    return len(header).to_bytes(4) + header + decoded.pixels.tobytes()


def _tiff() -> bytes:
    return TIFFS["LZW with prediction, in tiles"].make()


def _nifti() -> bytes:
    return NIFTIS["gzip of several parts, with something behind"].make()


def _request() -> bytes:
    with _folder() as folder:
        return create_request(OWN, folder / "own").read_bytes()


def _ticket() -> bytes:
    now = int(datetime.now(UTC).timestamp())
    claims = TicketClaims(
        jti=uuid4(),
        session=uuid4(),
        purpose=Purpose.DIAGNOSE,
        account="test",
        model="tiny-chest",
        version="1.0.0",
        plan_hash="0" * 64,
        card_hash="1" * 64,
        engine=Engine.MASKED,
        data_owner=OWN.organisation,
        model_owner=PEER.organisation,
        crypto_provider="trust-centre",
        output_policy=OutputPolicy.LOGITS,
        iat=now,
        exp=now + 300,
    )
    return issue_ticket(claims, _key()).encode()


@cache
def _terms() -> RoundTerms:
    return make_terms(signing_keys(4))


def _hospital(name: str) -> HospitalAggregation:
    return HospitalAggregation(_terms(), name=name, signing_key=signing_keys(4)[name], history=RoundHistory())


def read_aggregation(data: bytes) -> None:
    """Secure aggregation's messages, one after the other, each as long as the first bytes of what is left say.

    The coordinator takes them as the hospitals' answers of each stage in turn, a hospital as the coordinator's.
    """
    coordinator, hospital = CoordinatorAggregation(_terms()), _hospital("hospital-a")
    hospital.advertise()
    hospital_steps: list[Callable[[bytes], object]] = [
        hospital.share_keys,
        lambda message: hospital.mask(RingVector.zeros(_terms()), message),
        hospital.confirm,
        hospital.unmask,
    ]
    ends = [coordinator.directory, coordinator.deliveries, coordinator.survivors, coordinator.confirmations]
    while data:
        size = int.from_bytes(data[:2], "little")
        message, data = data[2 : 2 + size], data[2 + size :]
        for name in sorted(coordinator.awaited):
            with suppress(EncryptedInferenceError):
                coordinator.receive(name, message)
                break
        if not coordinator.awaited and ends:
            ends.pop(0)()
        if hospital_steps:
            with suppress(EncryptedInferenceError):
                hospital_steps.pop(0)(message)


def _aggregation() -> bytes:
    messages = [_hospital(name).advertise() for name in _terms().members]
    return b"".join(len(message).to_bytes(2, "little") + message for message in messages)


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "codec": Target(read=read_frames, sample=frames),
        "ticket": Target(read=verify, sample=_ticket),
        "card": Target(read=_of_file(read_card, "card.json"), sample=_model_file("card.json")),
        "plan": Target(read=parse_plan, sample=lambda: make_plan(small_network()).canonical_bytes()),
        "request": Target(read=_of_file(read_request, "request.pem"), sample=_request),
        "onnx": Target(read=_of_file(read_onnx, "model.onnx"), sample=_model_file("model.onnx")),
        "aggregation": Target(read=read_aggregation, sample=_aggregation),
        "image": Target(read=read_picture, sample=_radiograph),
        "tiff": Target(read=read_picture, sample=_tiff),
        "nifti": Target(read=read_picture, sample=_nifti),
        "decoded": Target(read=read_decoded, sample=_decoded),
    }
)
