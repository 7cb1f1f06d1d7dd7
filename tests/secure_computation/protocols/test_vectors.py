"""Known answers, computed by a second implementation (`make_vectors.py`): every message, to the bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import PeerViolation
from secure_computation.protocols.bundle import BundleLayout
from secure_computation.protocols.comparison import Chain, deal_comparison
from secure_computation.protocols.dithered_relu import DitheredReluShape
from secure_computation.protocols.dithered_truncation import DitheredTruncationShape
from secure_computation.protocols.draws import Draws
from secure_computation.protocols.linear import (
    deal_linear,
    draw_weight_mask,
    linear_as_p0,
    linear_as_p1,
    mask_weights,
)
from secure_computation.protocols.product import ProductShape
from secure_computation.protocols.relu import ReluShape
from secure_computation.protocols.truncation import TruncationShape
from secure_computation.randomness import Seed
from secure_computation.ring import pack
from tests.secure_computation.protocols import make_vectors
from tests.secure_computation.protocols.one_page import ITEM, STEP, Seeds, Shape, compare, draws, play
from tests.secure_computation.protocols.test_product import play as play_product

FOLDER = Path(__file__).parent / "vectors"
MALFORMED = sorted((FOLDER / "malformed").glob("*.json"))


def read(name: str) -> tuple[list[dict[str, Any]], Seeds]:
    content = json.loads((FOLDER / name).read_text())
    assert (content["item"], content["step"]) == (ITEM, STEP)
    seeds = {party: Seed(bytes.fromhex(text)) for party, text in content["seeds"].items()}
    return content["vectors"], Seeds(p0=seeds["p0"], p1=seeds["p1"])


def identity(vector: dict[str, Any]) -> str:
    return "-".join(str(value) for value in (vector.get("shape") or {"chunks": vector.get("chunk_bits")}).values())


def test_the_files_are_what_the_script_writes() -> None:
    wanted = {name: json.loads(json.dumps(content)) for name, content in make_vectors.files().items()}
    written = {str(path.relative_to(FOLDER)): json.loads(path.read_text()) for path in FOLDER.rglob("*.json")}
    assert written == wanted


@pytest.mark.parametrize("vector", read("comparison.json")[0], ids=identity)
def test_comparison(vector: dict[str, Any]) -> None:
    _, seeds = read("comparison.json")
    chain = Chain(tuple(vector["chunk_bits"]))
    c, r = np.array(vector["c"], np.uint32), np.array(vector["r"], np.uint32)
    dealt = deal_comparison(chain, r, p0=draws(seeds.p0), p1=draws(seeds.p1), name="x")
    assert [word.tobytes().hex() for word in dealt] == vector["corrections"]
    played = compare(chain, c, r, seeds)
    assert [bits.tolist() for bits in played.sent] == vector["from_p1"]
    assert played.p0.tolist() == vector["p0_share"]
    assert played.p1.tolist() == vector["p1_share"]
    assert played.less.tolist() == [int(one < other) for one, other in zip(vector["c"], vector["r"], strict=True)]


MESSAGES = {"corrections", "prepared", "from_p1", "from_p0"}


def chain_of(layout: list[int]) -> Chain | None:
    return Chain(tuple(layout)) if layout else None


def check_layer(shape: Shape, vector: dict[str, Any], seeds: Seeds) -> None:
    layer = play(shape, np.array(vector["z"], np.int64), z0=np.array(vector["z0"], np.uint32), seeds=seeds)
    sent = {name: body.hex() for name, body in layer.messages.items()}
    assert sent == {name: body for name, body in vector.items() if name in MESSAGES}
    assert layer.y.tolist() == vector["y"]


@pytest.mark.parametrize("vector", read("relu.json")[0], ids=identity)
def test_relu(vector: dict[str, Any]) -> None:
    numbers = vector["shape"]
    shape = ReluShape(
        count=len(vector["z"]),
        ring_bits=numbers["ring_bits"],
        truncated_bits=numbers["truncated_bits"],
        output_bits=numbers["output_bits"],
        high=Chain(tuple(numbers["high"])),
        low=chain_of(numbers["low"]),
    )
    check_layer(shape, vector, read("relu.json")[1])


@pytest.mark.parametrize("vector", read("truncation.json")[0], ids=identity)
def test_truncation(vector: dict[str, Any]) -> None:
    numbers = vector["shape"]
    shape = TruncationShape(
        count=len(vector["z"]),
        ring_bits=numbers["ring_bits"],
        truncated_bits=numbers["truncated_bits"],
        output_bits=numbers["output_bits"],
        low=chain_of(numbers["low"]),
    )
    check_layer(shape, vector, read("truncation.json")[1])


@pytest.mark.parametrize("vector", read("dithered_relu.json")[0], ids=identity)
def test_dithered_relu(vector: dict[str, Any]) -> None:
    numbers = vector["shape"] | {"high": Chain(tuple(vector["shape"]["high"]))}
    check_layer(DitheredReluShape(count=len(vector["z"]), **numbers), vector, read("dithered_relu.json")[1])


@pytest.mark.parametrize("vector", read("dithered_truncation.json")[0], ids=identity)
def test_dithered_truncation(vector: dict[str, Any]) -> None:
    shape = DitheredTruncationShape(count=len(vector["z"]), **vector["shape"])
    check_layer(shape, vector, read("dithered_truncation.json")[1])


@pytest.mark.parametrize("vector", read("linear.json")[0], ids=lambda vector: f"{vector['ring_bits']} bits")
def test_linear(vector: dict[str, Any]) -> None:
    _, seeds = read("linear.json")
    k = vector["ring_bits"]
    weights, rho = np.array(vector["weights"], np.int32), np.array(vector["rho"], np.uint32)
    model_seed = Seed(bytes.fromhex(vector["model_seed"]))
    mask = draw_weight_mask(Draws(model_seed, item="weights", step=0), weights.shape, bits=k)
    delta = mask_weights(weights, mask, bits=k)
    assert pack(delta).tobytes().hex() == vector["delta"]
    correction = deal_linear(mask @ rho, p0=draws(seeds.p0), bits=k)
    assert pack(correction.rings[0]).tobytes().hex() == vector["u1"]
    ring = np.uint32((1 << k) - 1)
    z0 = linear_as_p0(delta.values @ rho, draws=draws(seeds.p0), bits=k)
    assert (z0 & ring).tolist() == vector["z0"]
    v = np.array(vector["x"], np.int64).astype(np.uint32) - rho
    bias = np.array(vector["bias"], np.int64).astype(np.uint32)
    z1 = linear_as_p1(weights.astype(np.uint32) @ v + bias, correction=correction.rings[0].values)
    assert ((z0 + z1) & ring).tolist() == vector["z"]


@pytest.mark.parametrize("vector", read("product.json")[0], ids=identity)
def test_product(vector: dict[str, Any]) -> None:
    numbers = vector["shape"]
    left, right = tuple(numbers["left"]), tuple(numbers["right"])
    shape = ProductShape(left=left, right=right, ring_bits=numbers["ring_bits"])
    x, y = (np.array(vector[name], np.int64).reshape(to) for name, to in (("x", left), ("y", right)))
    a, b = (np.array(vector[name], np.uint32).reshape(to) for name, to in (("a", left), ("b", right)))
    played = play_product(shape, x, y, masks=(a, b), seeds=read("product.json")[1])
    for name, body in played.messages.items():
        assert body.hex() == vector[name], name
    halves = [half.reshape(-1).tolist() for half in played.halves]
    assert halves == [vector["p0_half"], vector["p1_half"]]
    assert ((x * y - played.product) % (1 << shape.ring_bits) == 0).all()


@pytest.mark.parametrize("path", MALFORMED, ids=lambda path: path.stem)
def test_malformed_messages(path: Path) -> None:
    case = json.loads(path.read_text())
    layout = BundleLayout(
        count=case["layout"]["count"],
        word_types=tuple(np.dtype(f"<u{size}") for size in case["layout"]["word_bytes"]),
        bit_arrays=case["layout"]["bit_arrays"],
        ring_bits=tuple(case["layout"]["ring_bits"]),
    )
    body = np.frombuffer(bytes.fromhex(case["body"]), np.uint8)
    if case["refused"] is None:
        assert layout.pack(layout.unpack(body, peer="p", step="s")).tobytes() == body.tobytes()
    else:
        with pytest.raises(PeerViolation, match=f"'laboratory'.*'opening'.*{case['refused']}"):
            layout.unpack(body, peer="'laboratory'", step="opening")
