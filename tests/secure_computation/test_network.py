"""The public network, its canonical bytes, its private half, and the plain evaluation of both."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import ModelFileError
from secure_computation.float_reference import evaluate, value_ranges
from secure_computation.network import (
    MAX_NETWORK_BYTES,
    Add,
    Convolution2d,
    FullyConnected,
    GlobalAveragePool,
    MaxPool,
    Multiply,
    Network,
    Relu,
    Reshape,
    parse_network,
)
from secure_computation.private_weights import PrivateWeights

SMALL = Network(
    input_shape=(1, 6, 6),
    operations=(
        Convolution2d(
            name="convolution1",
            inputs=("input",),
            shape=(4, 6, 6),
            weight_shape=(4, 1, 3, 3),
            bias=True,
            padding=(1,) * 4,
        ),
        Relu(name="relu1", inputs=("convolution1",), shape=(4, 6, 6)),
        Add(name="add1", inputs=("relu1", "convolution1"), shape=(4, 6, 6)),
        MaxPool(name="max_pool1", inputs=("add1",), shape=(4, 3, 3), kernel=(2, 2), stride=(2, 2)),
        GlobalAveragePool(name="global_average_pool1", inputs=("max_pool1",), shape=(4, 1, 1)),
        Reshape(name="reshape1", inputs=("global_average_pool1",), shape=(4,)),
        FullyConnected(
            name="fully_connected1", inputs=("reshape1",), shape=(3,), in_features=4, out_features=3, bias=True
        ),
    ),
    output="fully_connected1",
    classes=3,
)


def random_weights(network: Network) -> PrivateWeights:
    generator = np.random.default_rng(0)
    return PrivateWeights(
        network, {name: generator.normal(size=shape) for name, shape in network.weight_shapes().items()}
    )


def test_canonical_bytes_come_back() -> None:
    data = SMALL.canonical_bytes()
    assert parse_network(data) == SMALL
    assert parse_network(data).network_hash() == SMALL.network_hash()
    assert SMALL.weight_shapes() == {
        "convolution1.weight": (4, 1, 3, 3),
        "convolution1.bias": (4,),
        "fully_connected1.weight": (3, 4),
        "fully_connected1.bias": (3,),
    }
    assert SMALL.last_uses()["convolution1"] == 2


@pytest.mark.parametrize(
    ("left", "right", "made"),
    [
        ((4, 6, 6), (4, 6, 6), True),
        ((4, 6, 6), (4, 1, 1), True),
        ((4, 6, 6), (1, 6, 6), True),
        ((4, 6, 6), (1, 1, 1), True),
        ((4,), (4,), True),
        ((4, 1, 1), (4, 6, 6), False),
        ((4, 1, 6), (4, 6, 1), False),
        ((4, 6, 6), (6,), False),
        ((4, 6, 6), (2, 1, 1), False),
    ],
)
def test_a_product_has_the_shape_of_its_first_factor(left: tuple[int, ...], right: tuple[int, ...], made: bool) -> None:
    product = Multiply.model_validate({"name": "product1", "inputs": ("a1", "a2"), "shape": left})
    if made:
        assert product.infer((left, right)) == left
    else:
        with pytest.raises(ValueError, match="needs two values of one shape"):
            product.infer((left, right))


def test_the_hash_stands_for_the_format() -> None:
    """Changes only when the format does: tickets and stored plans name it."""
    assert SMALL.network_hash() == "ace9204812c7ab2a814d9d49f11b0e7b2555895915c77f195fddbea2b1f9dd6d"


def changed(path: tuple[str | int, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *most, last = path
        place: Any = content
        for step in most:
            place = place[step]
        place[last] = value

    return change


def operation(index: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["operations"][index].update(values)


BAD_NETWORKS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "another format": (changed(("format",), 2), "format"),
    "an unknown key": (changed(("extra",), 1), "extra"),
    "an unknown operation": (operation(1, kind="sigmoid"), "operations.1"),
    "an attribute of another operation": (operation(1, stride=[1, 1]), "stride"),
    "a shape that does not follow": (operation(1, shape=[4, 6, 7]), "makes shape .* but declares"),
    "a value from nowhere": (operation(1, inputs=["later"]), "which no earlier operation makes"),
    "a value from later": (operation(1, inputs=["add1"]), "which no earlier operation makes"),
    "a name taken twice": (operation(2, name="relu1"), "taken twice"),
    "the name of the image": (operation(1, name="input"), "taken twice"),
    "a name with a path": (operation(1, name="../weights"), "name"),
    "an unused value": (operation(3, inputs=["relu1"]), "'add1' is never used"),
    "an output that is not there": (changed(("output",), "nowhere"), "must be a vector"),
    "another number of classes": (changed(("classes",), 4), "must be a vector of 4"),
    "no stride": (operation(0, stride=[0, 1]), "stride"),
    "a negative padding": (operation(0, padding=[-1, 0, 0, 0]), "padding"),
    "a float for an integer": (operation(0, groups=1.0), "groups"),
    "text for an integer": (operation(0, groups="1"), "groups"),
    "no operations": (changed(("operations",), []), "operations"),
    "an image of absurd size": (changed(("input_shape",), [1 << 30, 1, 1]), "input_shape"),
    "a wrong number of inputs": (operation(1, inputs=["convolution1", "convolution1"]), "needs one input"),
    "no input": (operation(1, inputs=[]), "inputs"),
}


@pytest.mark.parametrize("case", BAD_NETWORKS)
def test_bad_networks_are_refused(case: str) -> None:
    change, expected = BAD_NETWORKS[case]
    content = json.loads(SMALL.canonical_bytes())
    change(content)
    with pytest.raises(ModelFileError, match=expected):
        parse_network(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def test_only_canonical_bytes_of_bounded_size_parse() -> None:
    data = SMALL.canonical_bytes()
    for other in (data + b" ", json.dumps(json.loads(data)).encode(), data.replace(b'"format":1,', b"")):
        with pytest.raises(ModelFileError, match="canonical"):
            parse_network(other)
    with pytest.raises(ModelFileError, match="exceeds"):
        parse_network(b" " * (MAX_NETWORK_BYTES + 1))


def test_a_network_that_is_too_large() -> None:
    image = (1, 4096, 4096)
    wide = Convolution2d(name="c", inputs=("input",), shape=(64, 4096, 4096), weight_shape=(64, 1, 1, 1), bias=False)
    with pytest.raises(ValueError, match="elements in one value, more than"):
        _network_ending_in(wide, image)


def _network_ending_in(first: Convolution2d, image: tuple[int, int, int]) -> Network:
    return Network(
        input_shape=image,
        operations=(
            first,
            GlobalAveragePool(name="g", inputs=(first.name,), shape=(first.shape[0], 1, 1)),
            Reshape(name="r", inputs=("g",), shape=(first.shape[0],)),
        ),
        output="r",
        classes=first.shape[0],
    )


@settings(max_examples=300)
@given(data=st.data())
def test_garbage_parses_or_is_refused(data: st.DataObject) -> None:
    content = bytearray(SMALL.canonical_bytes())
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=3)
    ):
        content[position] = value
    try:
        network = parse_network(bytes(content))
    except ModelFileError:
        return
    assert network.canonical_bytes() == bytes(content)


def test_weights_are_withheld_and_not_pickled() -> None:
    weights = random_weights(SMALL)
    shown = repr(weights) + str(weights)
    assert not any(f"{value:.3f}" in shown for tensor in weights.values() for value in tensor.reshape(-1))
    for serialise in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            serialise(weights)
    with pytest.raises(ValueError, match="read-only"):
        weights["convolution1.bias"][0] = 1.0


def test_weights_survive_the_disk(tmp_path: Path) -> None:
    weights, path = random_weights(SMALL), tmp_path / "weights.npz"
    weights.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    loaded = PrivateWeights.load(SMALL, path)
    assert list(loaded) == list(weights)
    for name, tensor in weights.items():
        np.testing.assert_array_equal(loaded[name], tensor)
    with pytest.raises(FileExistsError):
        weights.save(path)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in random_weights(SMALL).items() if key != name}


NAME = "convolution1.bias"
BAD_WEIGHTS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": (without(NAME), f"disagree on tensor '{NAME}'"),
    "one too many": (without("") | {"z": np.zeros(1)}, "disagree on tensor 'z'"),
    "shape": (without("") | {NAME: np.zeros(5)}, "shape"),
    "integers": (without("") | {NAME: np.zeros(4, np.int64)}, "type int64"),
    "NaN": (without("") | {NAME: np.full(4, np.nan)}, "not finite"),
    "beyond float32": (without("") | {NAME: np.full(4, 1e300)}, "not finite"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_do_not_fit(case: str) -> None:
    tensors, expected = BAD_WEIGHTS[case]
    with pytest.raises(ModelFileError, match=expected):
        PrivateWeights(SMALL, tensors)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def with_longer_tensor(path: Path) -> None:
    np.savez(path, **(without("") | {NAME: np.zeros(1 << 16, np.float32)}))


def with_pickle(path: Path) -> None:
    np.savez(path, **(without("") | {NAME: np.array([{}], dtype=object)}))


def without_tensor(path: Path) -> None:
    np.savez(path, **without(NAME))


def with_other_type(path: Path) -> None:
    np.savez(path, **(without("") | {NAME: np.zeros(4, np.float64)}))


def with_compression_bomb(path: Path) -> None:
    np.savez_compressed(path, **(without("") | {NAME: np.zeros(1 << 22, np.float32)}))


@pytest.mark.parametrize(
    "damage",
    [cut, with_longer_tensor, with_pickle, without_tensor, with_other_type, with_compression_bomb, Path.unlink],
)
def test_weight_files_that_do_not_fit(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    random_weights(SMALL).save(path)
    damage(path)
    with pytest.raises(ModelFileError, match="import the model again"):
        PrivateWeights.load(SMALL, path)


def test_evaluation_is_what_torch_says() -> None:
    weights = random_weights(SMALL)
    images = torch.randn(3, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tensors = {name: torch.tensor(tensor, dtype=torch.float64) for name, tensor in weights.items()}
    hidden = torch.conv2d(images, tensors["convolution1.weight"], tensors["convolution1.bias"], padding=1)
    pooled = torch.max_pool2d(torch.relu(hidden) + hidden, 2).mean(dim=(2, 3))
    expected = pooled @ tensors["fully_connected1.weight"].T + tensors["fully_connected1.bias"]
    torch.testing.assert_close(evaluate(SMALL, weights, images), expected)
    ranges = value_ranges(SMALL, weights, images)
    assert list(ranges) == list(SMALL.shapes())
    assert ranges["convolution1"].smallest == pytest.approx(float(hidden.min()))
    assert ranges["fully_connected1"].largest == pytest.approx(float(expected.max()))


def test_evaluation_refuses_another_size() -> None:
    with pytest.raises(ValueError, match="the network asks for"):
        evaluate(SMALL, random_weights(SMALL), torch.zeros(1, 1, 5, 5))
