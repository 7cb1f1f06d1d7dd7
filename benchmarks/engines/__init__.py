"""Engines that can be measured, by the names that --engines takes. A new engine or peer is one module and one line."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measuring import Opener
    from secure_computation.links import Link

NAMES = ("masked", "crypten", "stock-crypten", "plaintext")


def openers(link: "Link | None" = None) -> Mapping[str, "Opener"]:
    """How each engine is set up, with a link of this kind between its parties; loopback where none is given.

    Imports what engines need, which takes a moment.
    """
    from benchmarks.engines.plaintext import plaintext
    from benchmarks.engines.product import product
    from benchmarks.engines.stock_crypten import stock
    from contract.ticket import Engine
    from secure_computation.links import LOOPBACK

    between = link or LOOPBACK
    return {
        "masked": product(Engine.MASKED, between),
        "crypten": product(Engine.CRYPTEN, between),
        "stock-crypten": stock(between),
        "plaintext": plaintext,
    }
