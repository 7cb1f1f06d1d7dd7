"""Engines that can be measured, by the names that --engines takes. A new engine or peer is one module and one line."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measuring import Opener

NAMES = ("masked", "crypten", "stock-crypten", "plaintext")


def openers() -> Mapping[str, "Opener"]:
    """How each engine is set up. Imports what engines need, which takes a moment."""
    from benchmarks.engines.plaintext import plaintext
    from benchmarks.engines.product import product
    from benchmarks.engines.stock_crypten import stock
    from contract.ticket import Engine

    return {
        "masked": product(Engine.MASKED),
        "crypten": product(Engine.CRYPTEN),
        "stock-crypten": stock,
        "plaintext": plaintext,
    }
