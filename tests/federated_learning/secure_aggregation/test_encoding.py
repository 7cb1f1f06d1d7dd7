"""Updates and counts in the ring and back: rounding within the stated bound, nothing lost, nothing wrapped."""

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from contract.errors import ComputationFailed, ConfigurationError
from federated_learning.secure_aggregation.encoding import (
    ExactField,
    UpdateEncoding,
    VectorLayout,
    compute_norm,
    decode_exact,
    encode_exact,
    first_limits,
    next_limits,
)
from federated_learning.secure_aggregation.masking import RingVector
from tests.federated_learning.secure_aggregation.rounds import (
    View,
    hospitals_for,
    make_terms,
    plain_sum,
    run_round,
    signing_keys,
)

SHAPES: dict[str, tuple[int, ...]] = {"conv.weight": (4, 3, 3, 3), "fc.weight": (3, 8), "fc.bias": (3,), "scale": ()}
EXACT = {"trained": ExactField((1,)), "classes": ExactField((3,)), "loss": ExactField((), 24)}
LAYOUT = VectorLayout(update=SHAPES, exact=EXACT)
WIDE = VectorLayout(update=SHAPES, exact=EXACT, ring_bits=32)
Update = dict[str, NDArray[np.float32]]


def drawn(generator: np.random.Generator, size: float = 0.01) -> Update:
    return {name: (size * generator.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}


def encoding(layout: VectorLayout = LAYOUT, limit: float = 0.1, total: int = 100) -> UpdateEncoding:
    return UpdateEncoding(layout=layout, limits=dict.fromkeys(SHAPES, limit), weight_total=total)


def mean_of(updates: dict[str, Update], weights: dict[str, int], name: str) -> NDArray[np.float64]:
    """Over all hospitals, where those without an update count as zero."""
    total = sum(weights.values())
    mean = np.zeros(SHAPES[name])
    for who, update in updates.items():
        mean += weights[who] / total * update[name].astype(np.float64)
    return mean


@pytest.mark.parametrize("ring_bits", [16, 32])
@pytest.mark.parametrize("dropped", [False, True])
def test_secure_and_plain_aggregation_give_the_same_weights(ring_bits: Literal[16, 32], dropped: bool) -> None:
    """Identical to the plain sum of the encoded updates; within the stated rounding of the floats' weighted mean."""
    layout = LAYOUT if ring_bits == 16 else WIDE
    keys = signing_keys(4)
    terms = make_terms(
        keys, update_length=layout.update_length, exact_length=layout.exact_length, ring_bits=layout.ring_bits
    )
    generator = np.random.default_rng(1)
    weights = {name: 10 * index + 10 for index, name in enumerate(keys)}
    updates = {name: drawn(generator) for name in keys}
    encoder = encoding(layout)
    vectors = {
        name: RingVector(
            encoder.encode(updates[name], hospital=name, weight=weights[name]).update,
            encode_exact(layout, counts([1, 0, 0], 0.25), hospital=name),
        )
        for name in keys
    }
    pattern = {"hospital-d": "mask"} if dropped else {}
    total, coordinator = run_round(terms, hospitals_for(terms, keys), vectors, pattern)
    plain = plain_sum(terms, vectors, coordinator.in_sum)
    assert np.array_equal(total.update, plain.update)
    assert np.array_equal(total.exact, plain.exact)

    sums = decode_exact(layout, total.exact)
    assert sums["trained"].tolist() == [len(coordinator.in_sum)]
    assert sums["loss"] == 0.25 * len(coordinator.in_sum)
    secure, clear = encoder.decode(total.update), encoder.decode(plain.update)
    bound = layout.rounding_bound(0.1, hospitals=len(coordinator.in_sum))
    for name in SHAPES:
        assert np.array_equal(secure[name], clear[name])
        expected = mean_of({who: updates[who] for who in coordinator.in_sum}, weights, name)
        assert np.abs(secure[name] - expected).max() <= bound + 1e-9
    assert bound < (1e-5 if ring_bits == 16 else 1e-9)


def counts(classes: list[int], loss: float) -> dict[str, Any]:
    return {
        "trained": np.array([1], np.int64),
        "classes": np.array(classes, np.int64),
        "loss": np.array(loss, np.float64),
    }


def test_bytes_are_half_of_float32() -> None:
    """Everything that a hospital sends in a round, beside 4 bytes for each weight."""
    keys = signing_keys(3)
    terms = make_terms(keys, update_length=100_000, exact_length=100)
    view = View()
    run_round(terms, hospitals_for(terms, keys), dict.fromkeys(keys, RingVector.zeros(terms)), {}, view)
    sent = dict.fromkeys(keys, 0)
    for messages in view.received.values():
        for name, message in messages:
            sent[name] += len(message)
    assert max(sent.values()) < 0.51 * 4 * 100_000


@given(st.integers(0, 1 << 32), st.sampled_from([LAYOUT, WIDE]), st.integers(1, 64))
@settings(max_examples=25)
def test_no_sum_wraps(seed: int, layout: VectorLayout, hospitals: int) -> None:
    """All hospitals at the limit with the same sign, weights of any kind: the mean is the limit, not its opposite."""
    generator = np.random.default_rng(seed)
    weights = [int(weight) for weight in generator.integers(1, 1000, hospitals)]
    encoder = encoding(layout, limit=0.3, total=sum(weights))
    update = {name: np.full(shape, 5.0, np.float32) for name, shape in SHAPES.items()}
    total = encoder.encode(update, hospital="a", weight=weights[0]).update
    for weight in weights[1:]:
        total = total + encoder.encode(update, hospital="a", weight=weight).update
    mean = encoder.decode(total)
    bound = layout.rounding_bound(0.3, hospitals=hospitals)
    assert all(np.abs(mean[name] - 0.3).max() <= bound + 1e-7 for name in SHAPES)


@given(st.integers(0, 1 << 32), st.sampled_from([0.1, 3.0]))
@settings(max_examples=25)
def test_error_feedback_loses_nothing(seed: int, limit: float) -> None:
    """Over rounds, what was decoded plus what is kept equals what was trained, where nothing is clipped."""
    generator = np.random.default_rng(seed)
    encoder = encoding(limit=limit, total=50)
    decoded = np.zeros(LAYOUT.update_length)
    trained = np.zeros(LAYOUT.update_length)
    residual = None
    for _ in range(6):
        update = drawn(generator)
        encoded = encoder.encode(update, hospital="a", weight=20, residual=residual)
        residual = encoded.residual
        # Alone in the sum: the mean is this hospital's part of it.
        mean = encoder.decode(encoded.update)
        decoded += np.concatenate([mean[name].ravel() for name in SHAPES]) * 50 / 20
        trained += np.concatenate([update[name].ravel() for name in SHAPES])
        assert encoded.largest.max() <= limit
    assert residual is not None
    assert np.abs(decoded + residual - trained).max() < 1e-6
    assert np.abs(residual).max() <= 0.51 * limit / LAYOUT.largest * 50 / 20


def test_what_is_clipped_is_not_kept() -> None:
    update = {name: np.full(shape, 0.05, np.float32) for name, shape in SHAPES.items()}
    update["fc.bias"][:] = (0.7, -0.7, 0.2)
    encoded = encoding(limit=0.1).encode(update, hospital="a", weight=50)
    assert np.abs(encoded.residual).max() <= 0.51 * 0.1 / LAYOUT.largest * 2
    assert encoding(limit=0.1).decode(encoded.update)["fc.bias"].tolist() == pytest.approx(
        [0.05, -0.05, 0.05], abs=1e-5
    )


@pytest.mark.parametrize("first_limit", [0.001, 0.25, 100.0])
def test_training_in_the_ring_ends_where_training_in_floats_does(first_limit: float) -> None:
    """Three hospitals, each pulled to another point, 40 rounds; limits that begin far too small or too large."""
    generator = np.random.default_rng(4)
    weights = {"a": 20, "b": 30, "c": 50}
    goals = {hospital: drawn(generator, 0.5) for hospital in weights}
    clear = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    ring = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    limits = dict.fromkeys(SHAPES, first_limit)
    residuals: dict[str, NDArray[np.float32] | None] = dict.fromkeys(weights)
    for _ in range(40):
        for name in SHAPES:
            clear[name] += 0.3 * sum(n / 100 * (goals[who][name] - clear[name]) for who, n in weights.items())
        encoder = UpdateEncoding(layout=LAYOUT, limits=limits, weight_total=100)
        total, largest = np.zeros(LAYOUT.update_length, np.uint16), np.zeros(len(SHAPES))
        for who, n in weights.items():
            update = {name: np.asarray(0.3 * (goals[who][name] - ring[name]), np.float32) for name in SHAPES}
            encoded = encoder.encode(update, hospital=who, weight=n, residual=residuals[who])
            residuals[who] = encoded.residual
            total += encoded.update.astype(np.uint16)
            largest += encoded.largest
        mean = encoder.decode(total)
        ring = {name: np.asarray(ring[name] + mean[name], np.float32) for name in SHAPES}
        limits = next_limits(limits, largest, hospitals=3)
    assert max(float(np.abs(ring[name] - clear[name]).max()) for name in SHAPES) < 1e-4


def test_limits_rise_at_once_and_fall_slowly() -> None:
    limits = dict.fromkeys(SHAPES, 0.001)
    update = {name: np.full(shape, 0.5, np.float32) for name, shape in SHAPES.items()}
    encoder = UpdateEncoding(layout=LAYOUT, limits=limits, weight_total=10)
    encoded = encoder.encode(update, hospital="a", weight=10)
    assert encoded.largest.tolist() == [0.5] * len(SHAPES)
    for hospitals, total, expected in ((1, 1, 0.75), (3, 3, 2.25), (4, 4, 3.0), (60, 60, 3.0)):
        grown = next_limits(limits, total * encoded.largest, hospitals=hospitals)
        assert list(grown.values()) == pytest.approx([expected] * len(SHAPES))
    fallen = next_limits(grown, np.zeros(len(SHAPES)), hospitals=3)
    assert list(fallen.values()) == [limit / 2 for limit in grown.values()]
    with pytest.raises(ConfigurationError, match="another network"):
        next_limits(limits, np.zeros(1), hospitals=3)


def test_first_limits_come_from_public_weights() -> None:
    weights = {"a": np.array([2.0, -4.0], np.float32), "b": np.zeros(3, np.float32), "c": np.zeros(0, np.float32)}
    assert first_limits(weights) == {"a": 4.0, "b": 0.25, "c": 0.25}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    update = drawn(np.random.default_rng(1))
    update["fc.weight"][1, 2] = bad
    with pytest.raises(ComputationFailed, match=r"hospital st-mary: the update of tensor 'fc.weight' .* not finite"):
        encoding().encode(update, hospital="st-mary", weight=10)


def test_the_norm_of_an_update_is_over_all_its_tensors_and_may_be_huge() -> None:
    """1e25 squared is more than float32 holds."""
    update = {name: np.full(shape, 1e25, np.float32) for name, shape in SHAPES.items()}
    assert compute_norm(update) == pytest.approx(1e25 * LAYOUT.update_length**0.5)


def test_an_update_of_another_network_is_refused() -> None:
    update = drawn(np.random.default_rng(1))
    for changed in (
        {**update, "more": update["scale"]},
        {name: value for name, value in update.items() if name != "scale"},
        {**update, "fc.bias": np.zeros(4, np.float32)},
    ):
        with pytest.raises(ConfigurationError, match="hospital st-mary has an update with other tensors or shapes"):
            encoding().encode(changed, hospital="st-mary", weight=10)
    doubled: Any = {**update, "scale": np.zeros((), np.float64)}
    with pytest.raises(ConfigurationError, match="hospital st-mary: tensor 'scale' is float64"):
        encoding().encode(doubled, hospital="st-mary", weight=10)
    with pytest.raises(ConfigurationError, match="hospital st-mary kept the rest of another network's update"):
        encoding().encode(update, hospital="st-mary", weight=10, residual=np.zeros(3, np.float32))


@pytest.mark.parametrize("weight", [0, -1, 101])
def test_a_weight_outside_of_the_federation_is_refused(weight: int) -> None:
    with pytest.raises(ConfigurationError, match=f"hospital st-mary has weight {weight}, of 100"):
        encoding().encode(drawn(np.random.default_rng(1)), hospital="st-mary", weight=weight)


@pytest.mark.parametrize(
    "change",
    [{"limits": {}}, {"limits": dict.fromkeys(SHAPES, 0.0)}, {"weight_total": 0}],
)
def test_an_encoding_that_cannot_work_is_refused(change: dict[str, Any]) -> None:
    settings: dict[str, Any] = {
        "layout": LAYOUT,
        "limits": dict.fromkeys(SHAPES, 0.1),
        "weight_total": 10,
    }
    with pytest.raises(ConfigurationError):
        UpdateEncoding(**{**settings, **change})


@given(st.lists(st.integers(-(1 << 55), 1 << 55), min_size=3, max_size=64))
@settings(max_examples=50)
def test_counts_are_summed_exactly(values: list[int]) -> None:
    layout = VectorLayout(update={}, exact={"pixels": ExactField((1,))})
    total = np.zeros(1, np.uint64)
    for value in values:
        total += encode_exact(layout, {"pixels": np.array([value], np.int64)}, hospital="a")
    assert int(decode_exact(layout, total)["pixels"][0]) == sum(values)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=64))
@settings(max_examples=50)
def test_metric_sums_are_rounded_to_their_digits(values: list[float]) -> None:
    layout = VectorLayout(update={}, exact={"loss": ExactField((), 24)})
    total = np.zeros(1, np.uint64)
    for value in values:
        total += encode_exact(layout, {"loss": np.array(value)}, hospital="a")
    assert abs(float(decode_exact(layout, total)["loss"]) - float(np.sum(values))) <= len(values) * 2.0**-24


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e18])
def test_sums_that_cannot_be_added_are_refused(bad: float) -> None:
    values = counts([1, 0, 0], bad)
    with pytest.raises(ComputationFailed, match="hospital st-mary: sum 'loss' is not finite or too large"):
        encode_exact(LAYOUT, values, hospital="st-mary")


def test_other_sums_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="hospital st-mary has other counts and sums"):
        encode_exact(LAYOUT, {"trained": np.array([1], np.int64)}, hospital="st-mary")
    with pytest.raises(ConfigurationError, match="keeps 0 to 40 binary digits"):
        VectorLayout(update={}, exact={"loss": ExactField((1,), 41)})


def test_nothing_of_an_update_is_shown() -> None:
    encoded = encoding().encode(drawn(np.random.default_rng(1)), hospital="a", weight=10)
    assert repr(encoded) == f"EncodedUpdate(<{LAYOUT.update_length} elements>)"
