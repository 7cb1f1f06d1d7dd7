"""Every engine and peer that can be measured: what it is, whom it trusts, how it is set up. A new one is one entry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.measuring import Opener
    from benchmarks.wiring import Wiring

SMALL_SIDE: Final = 64
"""Pixels. CHEETAH computes homomorphically: minutes at full size, so it is measured on small images only."""
ENGINES: Final = {
    "masked": "masked",
    "masked-stocked": "masked-stocked",
    "crypten": "crypten",
    "stock-crypten": "stock-crypten",
    "plaintext": "plaintext-onnxruntime",
    "plaintext-torch": "plaintext-torch",
}
"""Names that --engines takes, and the entry of the catalogue that each means."""
PEERS: Final = (
    *("masked", "crypten", "stock-crypten", "spu-semi2k", "spu-cheetah"),
    *("plaintext-torch", "plaintext-onnxruntime"),
)
"""Names that --peers takes."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One system as it is compared."""

    system: str
    """Its name and version, for people."""
    configuration: str
    """How it is set up here."""
    trust: str
    """Who must be trusted with what. Rows with different words here do not buy the same thing."""
    opener: "Opener"
    full_size: bool = True
    small: bool = False
    """Also measured on small images, beside what is measured only there."""
    counts_trips: bool = False
    prepare: Callable[[], object] | None = None
    """Makes it available; raises ConfigurationError if it cannot be."""


_DEALER = (
    "Two parties and a dealer, all following the protocol. None of the three learns image or weights alone; the dealer "
    "together with either party learns what the other holds."
)
_ALONE = "None: one process sees image and weights in clear."
_SPU_SETTING = (
    "float numbers as 64-bit fixed point (FM64), {}; SPU's own TCP links on loopback, not encrypted; 2 processes"
)
_OURS = "the product: 4 processes, TLS between all, tickets; material dealt for this image (offline)"


def openers(wiring: "Wiring | None" = None) -> Mapping[str, "Opener"]:
    """How each engine is set up, with such links between its parties; loopback if none are given."""
    known = catalogue(wiring)
    return {name: known[entry].opener for name, entry in ENGINES.items()}


def catalogue(wiring: "Wiring | None" = None, *, install: bool = False) -> Mapping[str, Peer]:
    """Every system by name. `install`: SPU's environment may be made if it is missing.

    `wiring` is what lies between the parties; SPU knows loopback alone. Imports what engines need, which takes a
    moment.
    """
    from benchmarks.wiring import HOME

    return {**_with_a_dealer(wiring or HOME), **_spu(install=install), **_in_clear()}


def _with_a_dealer(wiring: "Wiring") -> dict[str, Peer]:
    from benchmarks.engines.product import product
    from benchmarks.engines.stock_crypten import stock
    from contract.ticket import Engine

    return {
        "masked": Peer(
            system="ours, masked",
            configuration=_OURS,
            trust=_DEALER,
            opener=product(Engine.MASKED, wiring),
            small=True,
            counts_trips=True,
        ),
        "masked-stocked": Peer(
            system="ours, masked, from stock",
            configuration="the product: 4 processes, TLS between all, tickets; material prepared before",
            trust=_DEALER,
            opener=product(Engine.MASKED, wiring, stocked=True),
            counts_trips=True,
        ),
        "crypten": Peer(
            system="ours, crypten",
            configuration=_OURS,
            trust=_DEALER,
            opener=product(Engine.CRYPTEN, wiring),
            counts_trips=True,
        ),
        "stock-crypten": Peer(
            system="CrypTen 0.4.1",
            configuration="provider TTP, 64-bit fixed point; gloo on loopback, not encrypted; 3 processes",
            trust=_DEALER
            + " Its random numbers are not cryptographic, so this is its design, not what its code keeps.",
            opener=stock(wiring),
            counts_trips=True,
        ),
    }


def _spu(*, install: bool) -> dict[str, Peer]:
    from benchmarks.engines.spu import spu
    from benchmarks.peers.spu_environment import require

    def install_spu() -> object:
        return require(install=install)

    return {
        "spu-semi2k": Peer(
            system="SPU 0.9.5, SEMI2K",
            configuration=_SPU_SETTING.format(
                "multiplication triples from the first party (TrustedFirstParty), its default"
            ),
            trust="Two parties following the protocol, and the data owner trusted by the model owner: it deals the "
            "triples, knows both parties' seeds and could open the weights. SPU offers a third party for that, whose "
            "server is not in its package.",
            opener=spu("SEMI2K"),
            small=True,
            prepare=install_spu,
        ),
        "spu-cheetah": Peer(
            system="SPU 0.9.5, CHEETAH",
            configuration=_SPU_SETTING.format("homomorphic encryption and oblivious transfer, its defaults"),
            trust="Two parties following the protocol, and nobody else: no dealer. The strongest of the rows.",
            opener=spu("CHEETAH"),
            full_size=False,
            small=True,
            prepare=install_spu,
        ),
    }


def _in_clear() -> dict[str, Peer]:
    from benchmarks.engines.plaintext import plaintext, plaintext_torch

    return {
        "plaintext-torch": Peer(
            system="torch, in clear",
            configuration="float32, the compiled network; 1 process",
            trust=_ALONE,
            opener=plaintext_torch,
        ),
        "plaintext-onnxruntime": Peer(
            system="onnxruntime, in clear",
            configuration="float32, model.onnx; 1 process",
            trust=_ALONE,
            opener=plaintext,
            small=True,
        ),
    }
