"""Sessions in which everything is recorded, and in which a role may send what it should not."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import EncryptedInferenceError
from contract.identity import Party, Role
from secure_computation.channel.channel import Channel, Deadlines, Recorder
from secure_computation.channel.memory import CRYPTO_PROVIDER, DATA_OWNER, MODEL_OWNER, MemoryStream, closed_on_failure
from secure_computation.channel.stream import Piece
from secure_computation.engines.interface import Audited, Label, SignDecoy
from secure_computation.engines.masked.session.in_process import InProcessParties
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.session_statements import SessionSigning, SessionWitness
from secure_computation.wire import Frame, Phase
from tests.secure_computation.engines.masked.parties import ITEM

Body = NDArray[np.uint8]
Change = Callable[[str, Body], Body]
"""(step, body of a BYTES frame) -> what is sent in its place."""
ChangeHello = Callable[[str, Mapping[str, object]], Mapping[str, object]]


class DishonestChannel(Channel):
    """One end whose holder changes what it sends."""

    def __init__(self, stream: MemoryStream, peer: Party, recorder: Recorder | None, session: "Session") -> None:
        super().__init__(stream, peer=peer, deadlines=Deadlines(step_seconds=20), recorder=recorder)
        self._session = session

    def send_bytes(self, data: Piece, *, step: str) -> None:
        body = self._session.change(step, np.frombuffer(data, np.uint8))
        super().send_bytes(np.ascontiguousarray(body).data, step=step)

    def send_hello(self, fields: Mapping[str, object], *, step: str) -> None:
        super().send_hello(self._session.change_hello(step, fields), step=step)


LINKS = (
    "data_owner_from_model_owner",
    "data_owner_from_dealer",
    "model_owner_from_data_owner",
    "model_owner_from_dealer",
    "dealer_from_data_owner",
    "dealer_from_model_owner",
)


@dataclass
class Session:
    """One inference, each role in a thread. `run` once."""

    parties: InProcessParties
    image: NDArray[np.float32]
    items: Mapping[Role, ItemName] = field(default_factory=dict)
    """Where a role goes by another item than the others."""
    model_owner: Party = MODEL_OWNER
    signing: SessionSigning | None = None
    witness: SessionWitness | None = None
    sign_decoy: SignDecoy | None = None
    change: Change = lambda _step, body: body
    change_hello: ChangeHello = lambda _step, fields: fields
    frames: dict[str, list[Frame]] = field(default_factory=lambda: {link: [] for link in LINKS})
    """What each party received from each other one."""
    logits: NDArray[np.float64] | None = None
    label: Label | None = None
    audited: bool = False
    """Whether the item was a decoy and nothing was found."""
    heat_maps: list[NDArray[np.float64]] = field(default_factory=list)
    errors: dict[Role, BaseException] = field(default_factory=dict)
    prepared: dict[Role, Any] = field(default_factory=dict)
    seeds: DealtSeeds = field(default_factory=DealtSeeds.fresh)

    def _pair(self, left: Party, right: Party, names: tuple[str, str]) -> tuple[Channel, Channel]:
        streams = MemoryStream.pair()
        recorders = [self.frames[name].append for name in names]
        return (
            DishonestChannel(streams[0], right, recorders[0], self),
            DishonestChannel(streams[1], left, recorders[1], self),
        )

    def _item(self, role: Role) -> ItemName:
        return self.items.get(role, ITEM)

    def run(self) -> "Session":
        p0_p1, p1_p0 = self._pair(DATA_OWNER, self.model_owner, (LINKS[0], LINKS[2]))
        p0_d, d_p0 = self._pair(DATA_OWNER, CRYPTO_PROVIDER, (LINKS[1], LINKS[4]))
        p1_d, d_p1 = self._pair(self.model_owner, CRYPTO_PROVIDER, (LINKS[3], LINKS[5]))
        seeds, item, sides = self.seeds, self._item(Role.CRYPTO_PROVIDER), self.parties

        def dealer() -> None:
            with closed_on_failure(d_p0, d_p1):
                sides.dealer.deal(d_p0, to=Role.DATA_OWNER, item=item, seeds=seeds)
                sides.dealer.deal(d_p1, to=Role.MODEL_OWNER, item=item, seeds=seeds, sign=self.sign_decoy)

        def data_owner() -> None:
            with closed_on_failure(p0_p1, p0_d):
                p0_p1.set_phase(Phase.OFFLINE)
                prepared = sides.data_owner.prepare(
                    item=self._item(Role.DATA_OWNER), dealer=p0_d, model_owner=p0_p1, patience_seconds=20
                )
                self.prepared[Role.DATA_OWNER] = prepared
                (answer,) = sides.data_owner.run(
                    [self.image],
                    [prepared],
                    model_owner=p0_p1,
                    on_layer=lambda _index, _total, _name: None,
                    on_heat_map=self.heat_maps.append,
                    signing=self.signing,
                )
                if isinstance(answer, Audited):
                    self.audited = True
                elif isinstance(answer, Label):
                    self.label = answer
                else:
                    self.logits = answer

        def model_owner() -> None:
            with closed_on_failure(p1_p0, p1_d):
                p1_p0.set_phase(Phase.OFFLINE)
                prepared = sides.model_owner.prepare(item=self._item(Role.MODEL_OWNER), dealer=p1_d, data_owner=p1_p0)
                self.prepared[Role.MODEL_OWNER] = prepared
                sides.model_owner.run([prepared], data_owner=p1_p0, witness=self.witness)

        with ThreadPoolExecutor(max_workers=3) as pool:
            futures: dict[Role, Future[None]] = {
                Role.CRYPTO_PROVIDER: pool.submit(dealer),
                Role.MODEL_OWNER: pool.submit(model_owner),
                Role.DATA_OWNER: pool.submit(data_owner),
            }
            for role, future in futures.items():
                error = future.exception()
                if error is not None and not isinstance(error, EncryptedInferenceError):
                    raise error
                if error is not None:
                    self.errors[role] = error
        return self

    def honest(self) -> NDArray[np.float64]:
        """The logits of a session in which nobody failed."""
        assert self.errors == {}
        assert self.logits is not None
        return self.logits
