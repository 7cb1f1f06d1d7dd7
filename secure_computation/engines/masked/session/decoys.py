"""Decoy items: a data owner that deviates is caught, because it cannot tell them from real ones.

For each item D tosses a coin; what it says to P1 with the corrections has the same length either way:

    D                          P0, data owner                         P1, model owner
    ------------------------   ------------------------------------   ---------------------------------------------
    offline
    s0, the seed of rho_x      the same                               s1
                               uploads                         -->    keeps them
    real:  the seed of rho_x                                   -->
    decoy: s0, and for each                                    -->    lacks rho_x
    layer the hash of P0's
    right answers to strings
    drawn from s1
    online
                               x - rho - rho_x                 -->    real: adds rho_x. decoy: computes on as if it had
                                                               <--    real: openings. decoy: the strings from s1
                               answers                         -->    decoy: compares each hash with D's, and
                                                                      the uploads with those that follow from s0
    output
                                                               <--    real: its share. decoy: that it was one, or,
                                                                      in place of all outputs, that P0 deviated

What P0 sees until its last message: strings that are uniform to it, of the same lengths in the same order, from a P1
that does the same work. So whatever it changes, it changes without knowing whether it is looked at. The image stays
hidden from P1 in both: it needs s0 and rho_x for it, and D gives one of them, never both.

D's replay is P0's own code (`answering`), on a line that receives the strings and notes what is sent. It is done for a
real item, too, beside the corrections: else the time that D takes would tell. What P0 uploads depends on the masked
weights, which D lacks: P1 computes that itself, after P0's last message.

Source: Damgard, Orlandi and Simkin 2020 for covert security from correlated randomness; docs/protocol.md, "Decoys".
"""

import hashlib
import secrets
import ssl
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.api import Voucher
from contract.deviation import Deviation, DeviationError, StatedDecoy
from contract.errors import ConfigurationError, EncryptedInferenceError, PeerViolation, Refused
from contract.violation import LAST_MOMENT, MAX_MESSAGES, MOST_AUDITED, Found, Message, Sender
from secure_computation.channel.channel import Channel
from secure_computation.engines.interface import OnAudits, SignDecoy
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import InputStep
from secure_computation.engines.masked.session.activation import ActivationShape
from secure_computation.engines.masked.session.answering import answer_openings
from secure_computation.engines.masked.session.lines import receive_body
from secure_computation.engines.masked.session.redrawing import redraw_data_owner
from secure_computation.engines.masked.session.roles import (
    DataOwnerOffline,
    ModelOwnerOffline,
    PreparedDataOwner,
    PreparedMaps,
    find_input,
)
from secure_computation.engines.masked.session.walk import Move
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.protocols.bundle import Bundle, BundleLayout
from secure_computation.protocols.compared_layer import ComparedShape
from secure_computation.protocols.dithered_truncation import DitheredTruncationShape
from secure_computation.protocols.draws import Draws, RingElements
from secure_computation.protocols.label import LabelShape
from secure_computation.protocols.product import Pair, ProductShape
from secure_computation.randomness import SEED_BYTES, Seed
from secure_computation.transcript import Transcript, hash_body

AUDIT_STEP: Final = "audit"
"""Of what D tells P1 of an item; and of P1's END in place of an output: the item was a decoy."""
_COIN: Final = 1 << 53
_HASH_BYTES: Final = 32
_CERTIFICATE_ROOM: Final = 1280
_SIGNATURE_ROOM: Final = 72
_HEAD: Final = struct.Struct(f"<B{SEED_BYTES}sQHB{_CERTIFICATE_ROOM}s{_SIGNATURE_ROOM}s")


@dataclass(frozen=True, kw_only=True)
class RealItem:
    """What D tells P1 of an item that an image may be evaluated with."""

    second_mask: Seed
    """rho_x follows from it."""


@dataclass(frozen=True, kw_only=True)
class DecoyItem:
    """What D tells P1 of a decoy."""

    data_owner: Seed
    """s0."""
    layers: tuple[str, ...]
    """Of P0's right answers, a hash for each layer (`hash_layers`)."""
    at: int
    """When D signed, in seconds since 1970 (UTC)."""
    voucher: Voucher | None = field(repr=False)

    def state(self, lowering: MaskedLowering, p1: Seed, item: ItemName) -> StatedDecoy:
        """All that D signed, drawn once more."""
        seeds = DealtSeeds(data_owner=self.data_owner, model_owner=p1)
        return StatedDecoy(messages=state_messages(lowering, seeds, item), at=self.at, voucher=self.voucher)


Audit: TypeAlias = RealItem | DecoyItem


def mask_twice(
    prepared: PreparedDataOwner, lowering: MaskedLowering, second_mask: Seed, item: ItemName
) -> PreparedDataOwner:
    """P0: put rho_x to rho in the mask of the image."""
    step = find_input(lowering)
    both = prepared.spend_input_mask() + draw_second_mask(step, second_mask, item)
    return replace(prepared, unspent_input_mask=[both])


def draw_second_mask(step: InputStep, seed: Seed, item: ItemName) -> RingElements:
    """P0 and, for a real item, P1: rho_x."""
    draws = Draws(seed, item=item, step=0)
    return draws.ring("second input mask", step.shape, bits=step.value.ring_bits)


# D, the dealer


def toss_coin(share: float) -> bool:
    """D: whether an item is a decoy."""
    return secrets.randbelow(_COIN) < share * _COIN


def read_audit_share(hello: Mapping[str, object], *, peer: str) -> float:
    """D: the share of decoys that P1 asks for. Raises PeerViolation for what is none."""
    share = hello.get("audit_share")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= MOST_AUDITED:
        raise PeerViolation(f"{peer} did not say which share of its items are to be decoys, 0 to 0.5; update it")
    return float(share)


def deal_audit(
    lowering: MaskedLowering, seeds: DealtSeeds, item: ItemName, *, decoy: bool | None, sign: SignDecoy | None
) -> bytes:
    """D: what P1 is told of an item. Does the same work for both kinds.

    `decoy`: None if no item of this model owner is one, and nothing has to be hidden.
    """
    if decoy is None:
        return pack_audit(RealItem(second_mask=seeds.second_mask), layers=count_layers(lowering))
    stated = state_messages(lowering, seeds, item)
    layers = hash_layers(stated)
    at, voucher = sign(stated) if sign is not None else (0, None)
    audit = DecoyItem(data_owner=seeds.data_owner, layers=layers, at=at, voucher=voucher)
    packed = pack_audit(audit, layers=len(layers))  # also for nothing: what cannot be packed must not end decoys alone
    return packed if decoy else pack_audit(RealItem(second_mask=seeds.second_mask), layers=len(layers))


def state_messages(lowering: MaskedLowering, seeds: DealtSeeds, item: ItemName) -> tuple[Message, ...]:
    """D: all messages of a decoy, in P0's order: the strings that P1 sends, and P0's right answers."""
    line = _ReplayLine(_Strings(seeds.model_owner, item))
    prepared = redraw_data_owner(lowering, seed=seeds.data_owner, item=item)
    answer_openings([line], [prepared], lambda _index, _total, _step: None)
    if len(line.messages) > MAX_MESSAGES:
        raise Refused(
            f"a session of this model has {len(line.messages)} messages, and {MAX_MESSAGES} fit a record of them: its "
            "owner sets audit_share to 0, or imports a model of fewer layers"
        )
    return tuple(line.messages)


def hash_layers(messages: Iterable[Message]) -> tuple[str, ...]:
    """D and P1: of the answers among an item's messages, one SHA-256 for all of a name, which belong to a layer."""
    answers = (message for message in messages if message.sender is Sender.DATA_OWNER)
    return tuple(
        hashlib.sha256("".join(message.sha256 for message in of_layer).encode()).hexdigest()
        for _, of_layer in groupby(answers, key=lambda message: message.step)
    )


class _ReplayLine:
    """P0's line where D replays it: receives P1's strings, notes what is sent."""

    def __init__(self, strings: "_Strings") -> None:
        self._strings = strings
        self.messages: list[Message] = []

    def send(self, layout: BundleLayout, bundle: Bundle, *, step: str, answered: bool = True) -> None:
        del answered
        self.messages.append(_note(Sender.DATA_OWNER, step, layout.pack(bundle)))

    def receive(self, layout: BundleLayout, *, step: str) -> Bundle:
        string = self._strings.draw(layout)
        self.messages.append(_note(Sender.MODEL_OWNER, step, string))
        return layout.unpack(string, peer="the model owner", step=step)

    def exchange_tensor(self, own: NDArray[np.int64], /, *, step: str) -> NDArray[Any]:
        string = self._strings.draw_tensor(own)
        self.messages += [_note(Sender.DATA_OWNER, step, own), _note(Sender.MODEL_OWNER, step, string)]
        return string.reshape(own.shape)


# P1, the model owner


class DecoyLine:
    """P1's line of a decoy: sends strings in place of its openings, and notes what comes."""

    def __init__(self, channel: Channel, *, seed: Seed, item: ItemName, noted: Transcript | None = None) -> None:
        """`seed`: s1. `noted`: where what crosses is noted, as it is of a real item."""
        self.seed = seed
        self._channel = channel
        self._strings = _Strings(seed, item)
        self._noted = noted or Transcript(Sender.MODEL_OWNER)

    def messages(self) -> tuple[Message, ...]:
        """What crossed so far, in P0's order."""
        return self._noted.messages()

    def send(self, layout: BundleLayout, bundle: Bundle, *, step: str, answered: bool = True) -> None:
        """See Line. Sends another bundle of this layout, which takes about as long to draw as the right one to pack."""
        del bundle
        body = self._strings.draw(layout)
        self._noted.note_sent(step, body, answered=answered)
        self._channel.send_bytes(body.data, step=step)

    def receive(self, layout: BundleLayout, *, step: str) -> Bundle:
        """See Line."""
        body = receive_body(self._channel, layout, step=step)
        self._noted.note_received(step, body)
        return layout.unpack(body, peer=str(self._channel.peer), step=step)

    def exchange_tensor(self, own: NDArray[np.int64], /, *, step: str) -> NDArray[Any]:
        """See Line."""
        string = self._strings.draw_tensor(own)
        other = self._channel.exchange_tensor(string.reshape(own.shape), step=step)
        self._noted.note_exchange(step, string, other)
        return other


@dataclass(frozen=True, kw_only=True)
class DecoyCheck:
    """What P1 needs to check P0 by one decoy."""

    lowering: MaskedLowering
    item: ItemName
    decoy: DecoyItem
    line: DecoyLine
    uploads: Mapping[Move, Bundle] = field(repr=False)
    """What P0 sent ahead."""
    prepare_deltas: Callable[[], PreparedMaps]
    """Delta of each linear step, as P0 has it."""

    def require_right(self, *, peer: str, whole: bool) -> None:
        """Compare what P0 sent with what is right; the first message that differs raises DeviationError.

        `whole`: whether P0 has given all answers. If the session broke off, those that came are compared.
        """
        came, right = self._list_uploads()
        messages, stated = self.line.messages(), self._list_stated(whole=whole)
        for found, sent, wanted in ((Found.UPLOAD, came, right), (Found.ANSWER, messages, stated)):
            position = next(
                (at for at, (one, other) in enumerate(zip(sent, wanted, strict=True)) if one != other), None
            )
            if position is None:
                continue
            if sent[position].sender is Sender.MODEL_OWNER:  # what P0 answered to another string may well be right
                raise _disagreement("drew other strings for a decoy than this party")
            raise DeviationError(
                f"the software of {peer} did not follow the protocol: what it sent in step '{sent[position].step}' is "
                "not what follows from its material; this session was a check, and gives no answer",
                deviation=Deviation(
                    item=self.item,
                    found=found,
                    position=position,
                    expected=wanted[position].sha256,
                    uploads=came,
                    messages=messages,
                    stated=self.decoy.state(self.lowering, self.line.seed, self.item),
                ),
            )

    def _list_uploads(self) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """What came, and what follows from s0."""
        came, right = list[Message](), list[Message]()

        def note(move: Move, layout: BundleLayout, bundle: Bundle) -> None:
            step = f"hidden share, {move}"
            came.append(_note(Sender.DATA_OWNER, step, layout.pack(self.uploads[move])))
            right.append(_note(Sender.DATA_OWNER, step, layout.pack(bundle)))

        seed, deltas = self.decoy.data_owner, self.prepare_deltas()
        DataOwnerOffline(self.lowering, deltas, seed=seed, item=self.item, send=note).prepare()
        return tuple(came), tuple(right)

    def _list_stated(self, *, whole: bool) -> tuple[Message, ...]:
        """The messages that came, as D stated them. Only if they are not, or not all of them came, D is replayed."""
        came = self.line.messages()
        if whole and hash_layers(came) == self.decoy.layers:
            return came
        stated = self.decoy.state(self.lowering, self.line.seed, self.item).messages
        if hash_layers(stated) != self.decoy.layers:
            raise _disagreement("stated other answers for a decoy than follow from what it dealt")
        return stated[: len(came)]


def _disagreement(how: str) -> PeerViolation:
    """D's and P1's: no word against P0."""
    return PeerViolation(f"the crypto provider {how}; update all parties to one version, or tell its operator")


@contextmanager
def checked(checks: Sequence[DecoyCheck], *, peer: str, on_audits: OnAudits | None) -> Iterator[None]:
    """P1: check every decoy of a session after the block, in which P0 answers; also if that breaks off.

    Raises DeviationError. `on_audits` is told how many decoys there were if all was right.
    """
    try:
        yield
    except EncryptedInferenceError:
        for check in checks:
            check.require_right(peer=peer, whole=False)
        raise
    for check in checks:
        check.require_right(peer=peer, whole=True)
    if checks and on_audits is not None:
        on_audits(len(checks))


# Both


class _Strings:
    """D and P1: what stands in place of P1's messages, one after the other. Uniform, as the openings are to P0."""

    def __init__(self, seed: Seed, item: ItemName) -> None:
        """`seed`: s1."""
        self._seed, self._item = seed, item
        self._drawn = 0

    def _draws(self) -> Draws:
        self._drawn += 1
        return Draws(self._seed, item=self._item, step=self._drawn - 1)

    def draw(self, layout: BundleLayout) -> NDArray[np.uint8]:
        """The body of the next message, of this layout, which has no words."""
        body = self._draws().open_stream("decoy").uint8(layout.body_bytes)
        layout.clear_filling(body)
        return body

    def draw_tensor(self, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """The next tensor, where CrypTen computes: words, or bits if the party's `own` are bits.

        CrypTen opens a sign as one bit in each word of 64, at both parties at once. All else that it opens lies under
        uniform words, which are bits with odds of 2^-63 for each.
        """
        words = self._draws().open_stream("decoy tensor").int64((own.size,))
        return words if np.bitwise_or.reduce(own, axis=None) & ~1 else words & 1


def _note(sender: Sender, step: str, body: NDArray[Any]) -> Message:
    return Message(sender=sender, step=step, sha256=hash_body(body))


class _Layers(ModelOwnerOffline):
    """Counts the names under which P0 sends answers in the online phase."""

    def __init__(self, lowering: MaskedLowering) -> None:
        super().__init__(lowering, from_dealer=_receive_nothing, from_data_owner=_receive_nothing)
        self.count = 0

    def multiply(self, shape: ProductShape, halves: Pair, move: Move) -> RingElements:
        self.count += 1
        return super().multiply(shape, halves, move)

    def compare(self, shape: ComparedShape, half: RingElements, move: Move) -> RingElements:
        self.count += 1
        return super().compare(shape, half, move)

    def truncate(self, shape: DitheredTruncationShape, half: RingElements, move: Move) -> RingElements:
        self.count += shape.wide
        return super().truncate(shape, half, move)

    def activate(self, shape: ActivationShape, half: RingElements, move: Move) -> RingElements:
        self.count += 2  # what CrypTen opens, and the answer
        return super().activate(shape, half, move)

    def label(self, shape: LabelShape, half: RingElements, move: Move, products: Move) -> RingElements:
        self.count += len(shape.widths)
        return super().label(shape, half, move, products)


def _receive_nothing(move: Move, layout: BundleLayout) -> Bundle:
    del move, layout
    return Bundle()


def count_layers(lowering: MaskedLowering) -> int:
    """How many hashes `hash_layers` makes of a plan. Public."""
    layers = _Layers(lowering)
    layers.collect()
    return layers.count


# The message from D to P1


def audit_bytes(layers: int) -> int:
    """Length of what D tells P1 of an item of a plan with so many layers: the same for both kinds."""
    return _HEAD.size + layers * _HASH_BYTES


def pack_audit(audit: Audit, *, layers: int) -> bytes:
    """Write it, in the one length of both kinds; chance fills what is left."""
    filling = secrets.token_bytes(audit_bytes(layers))
    if isinstance(audit, RealItem):
        head = _HEAD.pack(0, audit.second_mask.reveal_to_channel(), 0, 0, 0, filling, filling[_CERTIFICATE_ROOM:])
        return head + filling[len(head) :]
    certificate, signature = b"", b""
    if audit.voucher is not None:
        certificate = ssl.PEM_cert_to_DER_cert(audit.voucher.certificate)
        signature = bytes.fromhex(audit.voucher.signature)
    if len(certificate) > _CERTIFICATE_ROOM or len(signature) > _SIGNATURE_ROOM:
        raise ConfigurationError(
            f"the crypto provider's certificate has {len(certificate)} bytes, and {_CERTIFICATE_ROOM} have room beside "
            "a decoy: enrol again with shorter names"
        )
    seed = audit.data_owner.reveal_to_channel()
    lengths = (len(certificate), len(signature))
    head = _HEAD.pack(1, seed, audit.at, *lengths, certificate + filling, signature + filling[_CERTIFICATE_ROOM:])
    return head + b"".join(bytes.fromhex(sha256) for sha256 in audit.layers)


def parse_audit(data: bytes, *, source: str) -> Audit:
    """Read what `pack_audit` wrote. Raises PeerViolation, naming the source, for anything else."""
    kind, seed, at, certificate_bytes, signature_bytes, certificate, signature = _HEAD.unpack(data[: _HEAD.size])
    if kind == 0:
        return RealItem(second_mask=Seed(seed))
    if kind != 1 or at >= LAST_MOMENT:
        raise PeerViolation(f"{source} said of an item neither that it is real nor that it is a decoy; update it")
    hashes = data[_HEAD.size :]
    voucher = None
    if certificate_bytes:
        try:
            voucher = Voucher(
                certificate=ssl.DER_cert_to_PEM_cert(certificate[:certificate_bytes]),
                signature=signature[:signature_bytes].hex(),
            )
        except ValueError:
            raise PeerViolation(f"{source} did not sign a decoy as it has to; update it") from None
    return DecoyItem(
        data_owner=Seed(seed),
        layers=tuple(hashes[at : at + _HASH_BYTES].hex() for at in range(0, len(hashes), _HASH_BYTES)),
        at=at,
        voucher=voucher,
    )
