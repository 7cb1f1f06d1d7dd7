"""The crypten engine's three sides of a session (`engines.interface`).

    D                          P0, data owner                        P1, model owner
    ------------------------   -----------------------------------   -----------------------------------
    offline
    deal: a seed and the deal  prepare: seed, tag                    prepare: seed, tag, corrections
      tag to each, and to P1                                         "corrections received" to P0
      each tuple's correction  the tag each way, compared
                               one seed each way, between P0 and P1 alone, for sharings of zero
                               masked weights, each way: both learn w - b of each layer with weights w
    online
                               share of the image (no message)       share of the image (no message)
                               openings of masked values, both ways, layer by layer
    output
                               receive P1's share, add, decode       send its share of the logits to P0

Sharing the image costs no message: P0 adds it to a pseudo-random sharing of zero (CrypTen, section 4.1), and the dealt
masks hide it wherever it is opened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from contract.errors import ComputationFailed, PeerViolation
from contract.identity import Role
from secure_computation.channel.channel import Channel
from secure_computation.crypten_bridge.communicator import DATA_OWNER_RANK, MODEL_OWNER_RANK, TwoPartyCommunicator
from secure_computation.crypten_bridge.dealing import PartyRandomness, Product, Share, deal
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.provider import Corrections, PartyProvider
from secure_computation.crypten_bridge.session import RingStream, Session, activate, agree_on_streams
from secure_computation.deal_tag import derive_deal_tag, receive_deal_tag, require_same_deal, send_deal_tag
from secure_computation.engines.crypten.evaluation import PRECISION_BITS, EncryptedTensor, evaluate
from secure_computation.engines.crypten.lowering import CrypTenLowering
from secure_computation.engines.interface import OnAudits, OnHeatMap, OnLayer, SignDecoy
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.network import Network, Operation
from secure_computation.private_weights import PrivateWeights
from secure_computation.randomness import Seed
from secure_computation.session_statements import SessionSigning, SessionWitness
from secure_computation.wire import Phase

SCALE: Final = 1 << PRECISION_BITS
PLAUSIBLE_LOGIT: Final = 1000.0
"""CrypTen truncates each party's share by itself. With odds of |z| * 2^32 / 2^63 for each element (z: the real value
of a product) the sharing wraps and the element is off by 2^32. A result that this has hit is refused, not shown."""
_DEALT: Final = "corrections received"


class CrypTenDealer:
    """D's side of one plan."""

    def __init__(self, lowering: CrypTenLowering) -> None:
        """Deal for `lowering`."""
        self._lowering = lowering

    def deal(
        self, channel: Channel, *, to: Role, item: ItemName, seeds: DealtSeeds, sign: SignDecoy | None = None
    ) -> None:
        """See DealerSide. D never holds two tuples: each correction is sent as soon as it is dealt. No decoys."""
        del sign
        if to is Role.DATA_OWNER:
            channel.send_seed(seeds.data_owner.reveal_to_channel(), step="seed")
            send_deal_tag(channel, derive_deal_tag(seeds, item))
            return
        channel.send_seed(seeds.model_owner.reveal_to_channel(), step="seed")
        send_deal_tag(channel, derive_deal_tag(seeds, item))
        with torch.inference_mode():
            for step, request in enumerate(self._lowering.requests):
                p0 = PartyRandomness(seeds.data_owner, item=item, step=step)
                p1 = PartyRandomness(seeds.model_owner, item=item, step=step)
                channel.send_tensor(deal(request, p0, p1).numpy(), step=f"correction {step}")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One party's material of one item, and what it agreed on with the other."""

    provider: PartyProvider
    streams: Mapping[str, RingStream]


class _OnlineSide:
    """What P0 and P1 do alike. `weights`: at P1; None at P0."""

    def __init__(self, network: Network, lowering: CrypTenLowering, weights: PrivateWeights | None) -> None:
        self._network = network
        self._lowering = lowering
        self._weights = weights
        self._rank = DATA_OWNER_RANK if weights is None else MODEL_OWNER_RANK

    def _agree(
        self, channel: Channel, *, item: ItemName, seed: Seed, tag: bytes, corrections: Corrections | None = None
    ) -> Prepared:
        """P0 <-> P1, offline. `corrections`: at P1. Raises DealMismatch before anything else is exchanged."""
        send_deal_tag(channel, tag)
        require_same_deal(tag, receive_deal_tag(channel), channel)
        with torch.inference_mode(), channel.phase(Phase.OFFLINE):
            streams = agree_on_streams(channel, item=item, rank=self._rank)
            opened = self._open_masked_weights(channel, item, seed)
        provider = PartyProvider(self._lowering.requests, seed=seed, item=item, corrections=corrections, opened=opened)
        return Prepared(provider=provider, streams=streams)

    def _open_masked_weights(self, channel: Channel, item: ItemName, seed: Seed) -> dict[int, Share]:
        """Open w - b of each layer with weights w under the dealt mask b, by the triple's place in the dealing list.

        Weights are their own sharing (0, w). P0 sends -b0 and P1 w - b1: each uniform to the other, who lacks b0 or b1.
        """
        layers = [operation for operation in self._network.operations if operation.weight_shapes()]
        triples = self._lowering.weight_triples()
        if len(triples) != len(layers):
            raise PeerViolation(
                f"the dealing list has {len(triples)} layers with weights, the network {len(layers)}; "
                "import the model again so that plan and dealing agree"
            )
        opened: dict[int, Share] = {}
        for (step, triple), layer in zip(triples.items(), layers, strict=True):
            own = PartyRandomness(seed, item=item, step=step).ring("b", triple.right).neg_()
            if self._weights is not None:
                weight = _encode(self._weights[f"{layer.name}.weight"])
                own.add_(weight.t() if triple.product is Product.MATMUL else weight)
            # reveal: the weights under the dealt mask b, which is uniform and used once.
            other = channel.exchange_tensor(own.numpy(), step=f"masked weights of {layer.name}")
            opened[step] = own.add_(torch.from_numpy(other))
        return opened

    def _evaluate(
        self, channel: Channel, prepared: Prepared, image: NDArray[np.float32] | None, on_layer: OnLayer
    ) -> torch.Tensor:
        """This party's share of the output, (1, classes). `image`: at P0; it leaves this only under dealt masks."""
        communicator = TwoPartyCommunicator(rank=self._rank, channel=channel)
        session = Session(communicator=communicator, provider=prepared.provider, streams=prepared.streams)

        def note_step(index: int, operation: Operation) -> None:
            communicator.step = f"{operation.name} ({operation.kind})"
            on_layer(index, len(self._network.operations), operation.name)

        with activate(session), torch.inference_mode():
            channel.set_phase(Phase.ONLINE)
            output = evaluate(self._network, self._share_image(image), self._share_weights(), note_step)
            prepared.provider.check_finished()
            channel.set_phase(Phase.OUTPUT)
            share: torch.Tensor = output.share.contiguous()
            return share

    def _share_image(self, image: NDArray[np.float32] | None) -> EncryptedTensor:
        """Share the image by a pseudo-random sharing of zero."""
        crypten = load_crypten()
        share = crypten.mpc.primitives.ArithmeticSharedTensor.PRZS(torch.Size((1, *self._network.input_shape))).share
        if image is not None:
            share.add_(_encode(image[None]))
        return crypten.mpc.MPCTensor.from_shares(share, precision=PRECISION_BITS)

    def _share_weights(self) -> dict[str, EncryptedTensor]:
        """Share biases as (0, bias).

        As good as a random sharing: biases are only added, and what P1 sends of the output holds their sum in any case.
        Of the other weights, whose masked values are open, nothing but their shape is used: zeros that take no memory.
        """
        from_shares = load_crypten().mpc.MPCTensor.from_shares
        shared = {}
        for name, shape in self._network.weight_shapes().items():
            share = torch.zeros((), dtype=torch.int64).expand(shape)
            if self._weights is not None and name.endswith(".bias"):
                share = _encode(self._weights[name])
            shared[name] = from_shares(share, precision=PRECISION_BITS)
        return shared


class CrypTenDataOwner(_OnlineSide):
    """P0's side of one plan."""

    def __init__(self, network: Network, lowering: CrypTenLowering) -> None:
        """Evaluate `network`."""
        super().__init__(network, lowering, None)

    def get_ready(self, model_owner: str) -> None:
        """See DataOwnerSide. Nothing is kept here."""

    def prepare(self, *, item: ItemName, dealer: Channel, model_owner: Channel, patience_seconds: float) -> Prepared:
        """See DataOwnerSide."""
        seed, tag = Seed(dealer.receive_seed(step="seed")), receive_deal_tag(dealer)
        model_owner.receive_end(step=_DEALT, wait_seconds=patience_seconds)
        return self._agree(model_owner, item=item, seed=seed, tag=tag)

    def draw_ahead(self, prepared: Prepared) -> None:
        """See DataOwnerSide. All draws together would take too much memory here: nothing is drawn ahead."""

    def run(
        self,
        images: Sequence[NDArray[np.float32]],
        prepared: Sequence[Prepared],
        *,
        model_owner: Channel,
        on_layer: OnLayer,
        on_heat_map: OnHeatMap | None = None,
        signing: SessionSigning | None = None,
    ) -> tuple[NDArray[np.float64], ...]:
        """See DataOwnerSide. One image: see `choosing.require_room`.

        This engine opens logits only: a heat map would take a product on CrypTen's tensors more. It has no decoys, so
        nothing is signed. Raises ComputationFailed for logits that are not plausible.
        """
        del on_heat_map, signing
        (image,), (mine,) = images, prepared
        share = self._evaluate(model_owner, mine, image, on_layer)
        # reveal: the data owner, and nobody else, learns the logits. That is the purpose of the computation.
        other = model_owner.receive_tensor((1, self._network.classes), np.int64, step="output share")
        logits = (share.numpy() + other).astype(np.float64)[0] / SCALE
        if not bool(np.all(np.abs(logits) < PLAUSIBLE_LOGIT)):
            raise ComputationFailed(
                "the result is not plausible: a rare fault of CrypTen's truncation hit this run; submit the image again"
            )
        return (logits,)


class CrypTenModelOwner(_OnlineSide):
    """P1's side of one plan."""

    def __init__(self, network: Network, weights: PrivateWeights, lowering: CrypTenLowering) -> None:
        """Evaluate `network` with private `weights`."""
        super().__init__(network, lowering, weights)

    def prepare(self, *, item: ItemName, dealer: Channel, data_owner: Channel) -> Prepared:
        """See ModelOwnerSide. Memory is taken by the party's own plan, never by what D declares."""
        seed, tag = Seed(dealer.receive_seed(step="seed")), receive_deal_tag(dealer)
        corrections = Corrections(
            [
                torch.from_numpy(dealer.receive_tensor(request.output, np.int64, step=f"correction {step}"))
                for step, request in enumerate(self._lowering.requests)
            ]
        )
        data_owner.send_end(step=_DEALT)
        return self._agree(data_owner, item=item, seed=seed, tag=tag, corrections=corrections)

    def run(
        self,
        prepared: Sequence[Prepared],
        *,
        data_owner: Channel,
        on_audits: OnAudits | None = None,
        witness: SessionWitness | None = None,
    ) -> None:
        """See ModelOwnerSide. One image: see `choosing.require_room`. No decoys, and nothing is signed."""
        del on_audits, witness
        (mine,) = prepared
        share = self._evaluate(data_owner, mine, None, lambda _index, _total, _name: None)
        # reveal: to the data owner only; with its own share it learns the logits, as the output policy allows.
        data_owner.send_tensor(share.numpy(), step="output share")


def _encode(value: NDArray[np.float32]) -> torch.Tensor:
    """Fixed point. Rounded, not cut as CrypTen's encoder does: cutting biases every weight towards zero."""
    scaled = value.astype(np.float64)
    scaled *= SCALE
    return torch.from_numpy(np.rint(scaled, out=scaled).astype(np.int64))
