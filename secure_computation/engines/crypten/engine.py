"""The crypten engine's three calls: `deal`, `run_data_owner`, `run_model_owner`, and how its material travels.

    D                          P0, data owner                        P1, model owner
    ------------------------   -----------------------------------   -----------------------------------
    offline
    deal: for each tuple       receive_data_owner_material: seed     receive_model_owner_material: seed,
      the correction                                                   corrections
                               agree_on_zero_sharing: one seed each way, between P0 and P1 alone
                               open_masked_weights: both learn w - b of each layer with weights w
    online
                               share of the image (no message)       share of the image (no message)
                               openings of masked values, both ways, layer by layer
    output
                               receive P1's share, add, decode       send its share of the logits to P0

Sharing the image costs no message: P0 adds it to a pseudo-random sharing of zero (CrypTen, section 4.1), and the dealt
masks hide it wherever it is opened.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from contract.errors import ComputationFailed, PeerViolation
from secure_computation.channel.channel import Channel
from secure_computation.crypten_bridge.communicator import DATA_OWNER_RANK, MODEL_OWNER_RANK, TwoPartyCommunicator
from secure_computation.crypten_bridge.dealing import PartyRandomness, Product, Share, deal
from secure_computation.crypten_bridge.installation import load_crypten
from secure_computation.crypten_bridge.provider import Corrections, DataOwnerProvider, ModelOwnerProvider
from secure_computation.crypten_bridge.session import Session, activate
from secure_computation.engines.crypten.evaluation import PRECISION_BITS, EncryptedTensor, evaluate
from secure_computation.engines.crypten.lowering import CrypTenLowering
from secure_computation.material import DealtSeeds, ItemName
from secure_computation.network import Network, Operation, Shape
from secure_computation.private_weights import PrivateWeights
from secure_computation.randomness import RandomStream, Seed
from secure_computation.wire import Phase

SCALE: Final = 1 << PRECISION_BITS
PLAUSIBLE_LOGIT: Final = 1000.0
"""CrypTen truncates each party's share by itself. With odds of |z| * 2^32 / 2^63 for each element (z: the real value
of a product) the sharing wraps and the element is off by 2^32. A result that this has hit is refused, not shown."""

OnLayer = Callable[[int, int, str], None]
"""Progress: (index, total, name of the operation), called before each operation."""


@dataclass(frozen=True, kw_only=True)
class DataOwnerMaterial:
    """P0's material of one item: a seed."""

    item: ItemName
    seed: Seed


@dataclass(frozen=True, kw_only=True)
class ModelOwnerMaterial:
    """P1's material of one item: a seed and the corrections."""

    item: ItemName
    seed: Seed
    corrections: Corrections


def deal_corrections(lowering: CrypTenLowering, *, item: ItemName, seeds: DealtSeeds) -> Iterator[Share]:
    """D: the corrections of one item, one tuple at a time, in the order of the dealing list."""
    for step, request in enumerate(lowering.requests):
        p0 = PartyRandomness(seeds.data_owner, item=item, step=step)
        p1 = PartyRandomness(seeds.model_owner, item=item, step=step)
        yield deal(request, p0, p1)


def send_data_owner_material(channel: Channel, seeds: DealtSeeds) -> None:
    """D -> P0: its seed, and nothing else."""
    channel.send_seed(seeds.data_owner.reveal_to_channel(), step="seed")


def send_model_owner_material(
    channel: Channel, lowering: CrypTenLowering, *, item: ItemName, seeds: DealtSeeds
) -> None:
    """D -> P1: its seed, then each correction as soon as it is dealt. D never holds two tuples."""
    channel.send_seed(seeds.model_owner.reveal_to_channel(), step="seed")
    with torch.inference_mode():
        for step, correction in enumerate(deal_corrections(lowering, item=item, seeds=seeds)):
            channel.send_tensor(correction.numpy(), step=f"correction {step}")


def receive_data_owner_material(channel: Channel, item: ItemName) -> DataOwnerMaterial:
    """P0 <- D."""
    return DataOwnerMaterial(item=item, seed=Seed(channel.receive_seed(step="seed")))


def receive_model_owner_material(channel: Channel, lowering: CrypTenLowering, item: ItemName) -> ModelOwnerMaterial:
    """P1 <- D. Memory is taken by the party's own plan, never by what D declares."""
    seed = Seed(channel.receive_seed(step="seed"))
    tensors = [
        torch.from_numpy(channel.receive_tensor(request.output, np.int64, step=f"correction {step}"))
        for step, request in enumerate(lowering.requests)
    ]
    return ModelOwnerMaterial(item=item, seed=seed, corrections=Corrections(tensors))


@dataclass(frozen=True, kw_only=True)
class ZeroSharing:
    """Streams for pseudo-random sharings of zero, known to P0 and P1 alone, fresh for each session."""

    previous: RandomStream
    next: RandomStream


def agree_on_zero_sharing(channel: Channel, *, item: ItemName) -> ZeroSharing:
    """P0 <-> P1, offline: each sends the other one fresh seed. D must not know them."""
    own = Seed.fresh()
    channel.send_seed(own.reveal_to_channel(), step="zero-sharing seed")
    other = Seed(channel.receive_seed(step="zero-sharing seed"))
    streams = [seed.stream(item=item, step=0, label="zero sharing") for seed in (own, other)]
    # What one party subtracts (`next`), the other adds (`prev`): own seed forward, the peer's backward.
    return ZeroSharing(next=streams[0], previous=streams[1])


class MaskedWeights:
    """w - b of each layer with weights w under the dealt mask b, by the triple's place in the dealing list."""

    def __init__(self, opened: dict[int, Share]) -> None:
        """Keep what was opened."""
        self.opened = opened

    def __repr__(self) -> str:
        """Show nothing."""
        return f"<MaskedWeights: {len(self.opened)} layers, values withheld>"


def open_masked_weights(
    network: Network,
    weights: PrivateWeights | None,
    *,
    lowering: CrypTenLowering,
    material: DataOwnerMaterial | ModelOwnerMaterial,
    channel: Channel,
) -> MaskedWeights:
    """P0 <-> P1, offline: open each layer's masked weights, which needs no image. `weights`: at P1; None at P0.

    Weights are their own sharing (0, w). P0 sends -b0 and P1 w - b1: each uniform to the other, who lacks b0 or b1.
    """
    layers = [operation for operation in network.operations if operation.weight_shapes()]
    triples = lowering.weight_triples()
    if len(triples) != len(layers):
        raise PeerViolation(
            f"the dealing list has {len(triples)} layers with weights, the network {len(layers)}; "
            "import the model again so that plan and dealing agree"
        )
    opened: dict[int, Share] = {}
    with torch.inference_mode(), channel.phase(Phase.OFFLINE):
        for (step, triple), layer in zip(triples.items(), layers, strict=True):
            own = PartyRandomness(material.seed, item=material.item, step=step).ring("b", triple.right).neg_()
            if weights is not None:
                weight = _encode(weights[f"{layer.name}.weight"])
                own.add_(weight.t() if triple.product is Product.MATMUL else weight)
            # reveal: the weights under the dealt mask b, which is uniform and used once.
            other = channel.exchange_tensor(own.numpy(), step=f"masked weights of {layer.name}")
            opened[step] = own.add_(torch.from_numpy(other))
    return MaskedWeights(opened)


def run_data_owner(
    network: Network,
    image: NDArray[np.float32],
    *,
    lowering: CrypTenLowering,
    material: DataOwnerMaterial,
    zero_sharing: ZeroSharing,
    channel: Channel,
    on_layer: OnLayer,
    masked_weights: MaskedWeights | None = None,
) -> NDArray[np.float64]:
    """P0, online: evaluate on shares and return the logits, float64 of shape (classes,).

    `image`: float32 of the network's input shape, in clear; it leaves this function only as shares under dealt masks.
    `masked_weights`: of `open_masked_weights`, where the caller did that ahead; otherwise it is done first.
    """
    if masked_weights is None:
        masked_weights = open_masked_weights(network, None, lowering=lowering, material=material, channel=channel)
    provider = DataOwnerProvider(
        lowering.requests, seed=material.seed, item=material.item, opened=masked_weights.opened
    )
    communicator = TwoPartyCommunicator(rank=DATA_OWNER_RANK, channel=channel)
    session = _session(communicator, provider, zero_sharing)
    with activate(session), torch.inference_mode():
        channel.set_phase(Phase.ONLINE)
        shared_image = _share_image(DATA_OWNER_RANK, (1, *network.input_shape), image[None])
        shared_weights = _share_weights(network, None)
        output = evaluate(network, shared_image, shared_weights, _progress(network, communicator, on_layer))
        provider.check_finished()
        channel.set_phase(Phase.OUTPUT)
        # reveal: the data owner, and nobody else, learns the logits. That is the purpose of the computation.
        other = channel.receive_tensor((1, network.classes), np.int64, step="output share")
        logits = (output.share.numpy() + other).astype(np.float64)[0] / SCALE
    return _plausible(logits)


def run_model_owner(
    network: Network,
    weights: PrivateWeights,
    *,
    lowering: CrypTenLowering,
    material: ModelOwnerMaterial,
    zero_sharing: ZeroSharing,
    channel: Channel,
    on_layer: OnLayer,
    masked_weights: MaskedWeights | None = None,
) -> None:
    """P1, online: evaluate on shares and give P0 the output's share. Learns nothing. Otherwise as P0."""
    if masked_weights is None:
        masked_weights = open_masked_weights(network, weights, lowering=lowering, material=material, channel=channel)
    provider = ModelOwnerProvider(
        lowering.requests,
        seed=material.seed,
        item=material.item,
        corrections=material.corrections,
        opened=masked_weights.opened,
    )
    communicator = TwoPartyCommunicator(rank=MODEL_OWNER_RANK, channel=channel)
    session = _session(communicator, provider, zero_sharing)
    with activate(session), torch.inference_mode():
        channel.set_phase(Phase.ONLINE)
        shared_image = _share_image(MODEL_OWNER_RANK, (1, *network.input_shape), None)
        shared_weights = _share_weights(network, weights)
        output = evaluate(network, shared_image, shared_weights, _progress(network, communicator, on_layer))
        provider.check_finished()
        channel.set_phase(Phase.OUTPUT)
        # reveal: to the data owner only; with its own share it learns the logits, as the output policy allows.
        channel.send_tensor(output.share.contiguous().numpy(), step="output share")


def _session(communicator: TwoPartyCommunicator, provider: Any, zero_sharing: ZeroSharing) -> Session:
    local = Seed.fresh().stream(item="local", step=0, label="local")
    streams = {"prev": zero_sharing.previous, "next": zero_sharing.next, "local": local}
    return Session(communicator=communicator, provider=provider, streams=streams)


def _share_image(rank: int, shape: Shape, image: NDArray[np.float32] | None) -> EncryptedTensor:
    """Share the image by a pseudo-random sharing of zero; `image` is given at P0 and None at P1."""
    crypten = load_crypten()
    arithmetic = crypten.mpc.primitives.ArithmeticSharedTensor(
        None if image is None else _encode(image),
        size=torch.Size(shape),
        precision=0,
        src=DATA_OWNER_RANK,
        device=torch.device("cpu"),
    )
    assert (image is None) == (rank != DATA_OWNER_RANK)
    return crypten.mpc.MPCTensor.from_shares(arithmetic.share, precision=PRECISION_BITS)


def _share_weights(network: Network, weights: PrivateWeights | None) -> dict[str, EncryptedTensor]:
    """Share biases as (0, bias); `weights` is given at P1 and None at P0.

    As good as a random sharing: biases are only added, and what P1 sends of the output holds their sum in any case.
    Of the other weights, whose masked values are open, nothing but their shape is used: zeros that take no memory.
    """
    crypten = load_crypten()
    shared = {}
    for name, shape in network.weight_shapes().items():
        share = torch.zeros((), dtype=torch.int64).expand(shape)
        if weights is not None and name.endswith(".bias"):
            share = _encode(weights[name])
        shared[name] = crypten.mpc.MPCTensor.from_shares(share, precision=PRECISION_BITS)
    return shared


def _encode(value: NDArray[np.float32]) -> torch.Tensor:
    """Fixed point. Rounded, not cut as CrypTen's encoder does: cutting biases every weight towards zero."""
    scaled = value.astype(np.float64)
    scaled *= SCALE
    return torch.from_numpy(np.rint(scaled, out=scaled).astype(np.int64))


def _progress(
    network: Network, communicator: TwoPartyCommunicator, on_layer: OnLayer
) -> Callable[[int, Operation], None]:
    total = len(network.operations)

    def before(index: int, operation: Operation) -> None:
        communicator.step = f"{operation.name} ({operation.kind})"
        on_layer(index, total, operation.name)

    return before


def _plausible(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    if not bool(np.all(np.abs(logits) < PLAUSIBLE_LOGIT)):
        raise ComputationFailed(
            "the result is not plausible: a rare fault of CrypTen's truncation hit this run; submit the image again"
        )
    return logits
