"""Engines that compute nothing, and a case that needs no model file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.case import Case, Pictures
from benchmarks.measuring import LinkTraffic, Measurement, NotServed, Opener
from contract.errors import ComputationFailed
from contract.model_card import InputSpecification, Modality, ModelCard
from secure_computation.network import INPUT, FullyConnected, Network, Relu, Reshape

EXPECTED = (0.5, -1.0, 2.0)


NETWORK = Network(
    input_shape=(1, 8, 8),
    operations=(
        Relu(name="relu", inputs=(INPUT,), shape=(1, 8, 8)),
        Reshape(name="flat", inputs=("relu",), shape=(64,)),
        FullyConnected(name="head", inputs=("flat",), shape=(3,), in_features=64, out_features=3, bias=True),
    ),
    output="head",
    classes=3,
)


class FakeCase(Case):
    """Has no model file."""

    network = NETWORK


def fake_case(folder: Path, *, rounds: int = 1) -> Case:
    card = ModelCard(
        name="tiny",
        version="1.2.3",
        title="Tiny",
        intended_use="tests",
        input=InputSpecification(modalities=(Modality.DX,), height=8, width=8, mean=(0.5,), standard_deviation=(0.25,)),
        classes=("a", "b", "c"),
        training="none",
        model_sha256="0" * 64,
    )
    pictures = tuple(
        Pictures(
            seeds=(turn + 1,),
            images=(folder / f"{turn}.dcm",),
            tensor=folder / f"{turn}.npy",
            expected=np.asarray([EXPECTED]),
        )
        for turn in range(rounds)
    )
    return FakeCase(folder, card, folder, pictures)


def measurement(seconds: float = 1.0, *, logits: tuple[float, ...] = EXPECTED, memory: int = 100) -> Measurement:
    return Measurement(
        online_seconds=seconds,
        offline_seconds=seconds / 2,
        online_bytes=1000,
        offline_bytes=10,
        one_way_trips=7,
        peak_rss_bytes={"data_owner": memory},
        links=(LinkTraffic(sender="data_owner", receiver="model_owner", offline_bytes=4, online_bytes=900),),
        cpu_seconds={"data_owner": seconds / 4},
        logits=logits,
        details={"rounds": 3},
    )


class FakeEngine:
    def __init__(self, name: str, diary: list[str], measurements: list[Measurement]) -> None:
        self._name = name
        self._diary = diary
        self._measurements = iter(measurements)

    def measure(self, pictures: Pictures) -> Measurement:
        self._diary.append(f"{self._name} measures")
        try:
            return next(self._measurements)
        except StopIteration:
            raise ComputationFailed(f"{self._name} broke") from None


def fake_opener(name: str, diary: list[str], measurements: list[Measurement]) -> Opener:
    @contextmanager
    def opened(_case: Case, _timeout_seconds: float) -> Iterator[FakeEngine]:
        diary.append(f"{name} opens")
        try:
            yield FakeEngine(name, diary, measurements)
        finally:
            diary.append(f"{name} closes")

    return opened


@contextmanager
def refusing_opener(_case: Case, _timeout_seconds: float) -> Iterator[NotServed]:
    """An engine that cannot do what is asked."""
    yield NotServed("takes one image at a time")
