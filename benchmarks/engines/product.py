"""Our own engines, measured as a hospital would meet them: four processes on one machine and the real command line.

The parties do not know that they are measured. What is reported is what `data-owner diagnose --json` reports to its
user; memory is read from outside.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Final, TypeVar

from pydantic import ValidationError

from benchmarks.case import Case, Pictures
from benchmarks.emulation import deploy_over
from benchmarks.measuring import LinkTraffic, Measurement, NotServed, Opener
from benchmarks.processes import Finished, cpu_seconds, peak_rss_bytes, read_last_words, run_watched
from benchmarks.wiring import HOME, Wiring
from contract.errors import ComputationFailed
from contract.ticket import BATCHED_ENGINES, Engine
from data_owner.diagnosis import Bytes, Diagnosis
from demonstration.commands import make_command
from demonstration.deployment import Deployment
from model_owner.settings import ModelOwnerSettings
from secure_computation.engines.masked.session.step_shapes import part_count
from secure_computation.network import Clip, MaxPool, Network, Operation, Relu

Figure = TypeVar("Figure", int, float)

LARGEST_BATCH: Final = ModelOwnerSettings.model_fields["images_per_session"].default
"""What a model owner allows who sets nothing else."""


def product(engine: Engine, wiring: Wiring = HOME, *, stocked: bool = False) -> Opener:
    """Opener of one engine of ours, with such links between the parties; `stocked`: with material prepared before."""

    @contextmanager
    def opened(case: Case, timeout_seconds: float) -> Iterator[ProductEngine | NotServed]:
        if case.batch > 1 and engine not in BATCHED_ENGINES:
            yield NotServed("evaluates one image a session")
            return
        if case.batch > LARGEST_BATCH:
            yield NotServed(f"the model owner takes {LARGEST_BATCH} images a session, as it is set up here")
            return
        folder = case.folder / f"product-{engine.value}-{'stocked-' * stocked}{wiring.name}"
        folder.mkdir()
        with deploy_over(folder, [case.model_folder], wiring) as deployment:
            yield ProductEngine(engine, case, deployment, timeout_seconds, stocked=stocked)

    return opened


class ProductEngine:
    """Running servers. Every measurement is one new call of the command line; the servers stay, as in service."""

    def __init__(
        self, engine: Engine, case: Case, deployment: Deployment, timeout_seconds: float, *, stocked: bool = False
    ) -> None:
        """Measure on servers that run already."""
        self._engine = engine
        self._case = case
        self._deployment = deployment
        self._timeout_seconds = timeout_seconds
        self._stocked = stocked

    def measure(self, pictures: Pictures) -> Measurement:
        """Let one `data-owner diagnose` submit the pictures in one session, from stock if that is what is measured.

        Memory and processor time are of the whole command. Raises ComputationFailed if it does not answer every image
        or finds no stock, and DeadlineExceeded after the time limit.
        """
        if self._stocked:
            self._call("prepare", "--count", str(self._case.batch))
        before = _read_of_servers(self._deployment, cpu_seconds)
        batch = ("--batch", str(self._case.batch)) if self._case.batch > 1 else ()
        images = tuple(map(str, pictures.images))
        finished = self._call("diagnose", *images, *batch, "--engine", self._engine.value, "--json", "--force")
        try:
            answers = [Diagnosis.model_validate_json(line) for line in finished.output.splitlines()]
        except ValidationError as error:
            raise ComputationFailed(
                "data-owner diagnose --json did not print a diagnosis a line: report this"
            ) from error
        if [(one.batch.images, one.stocked) for one in answers] != [(len(images), self._stocked)] * len(images):
            raise ComputationFailed(
                f"data-owner diagnose did not answer {len(images)} image(s) in one session"
                f"{' from stock' * self._stocked}: report this"
            )
        spent = {party: now - before[party] for party, now in _read_of_servers(self._deployment, cpu_seconds).items()}
        details: dict[str, float] = {"command_seconds": finished.seconds}
        if self._engine is Engine.MASKED:
            # What the cost model needs of the network is kept with the run: the model of that name may change later.
            details["waited_share"] = measure_waited_share(self._case.network)
        return _measurement(
            answers,
            {"data_owner": finished.peak_rss_bytes} | measure_servers_memory(self._deployment),
            {"data_owner": finished.cpu_seconds} | spent,
            details,
        )

    def _call(self, command: str, *arguments: str) -> Finished:
        """Run one command of the data owner under watch."""
        return run_watched(
            make_command("data-owner", [command, *arguments, "--config", str(self._deployment.data_owner_settings)]),
            name="data-owner",
            environment=self._deployment.environment,
            folder=self._deployment.folder,
            timeout_seconds=self._timeout_seconds,
        )


def _measurement(
    session: Sequence[Diagnosis], memory: dict[str, int], spent: dict[str, float], details: dict[str, float]
) -> Measurement:
    first = session[0]  # seconds, bytes and trips are the session's, the same in each
    return Measurement(
        online_seconds=first.seconds.online,
        offline_seconds=first.seconds.offline,
        online_bytes=first.bytes.online,
        offline_bytes=first.bytes.offline,
        one_way_trips=first.one_way_trips,
        peak_rss_bytes=memory,
        logits=tuple(logit for one in session for logit in one.logits or ()),
        links=_link_traffic(first.bytes),
        cpu_seconds=spent,
        details=details
        | {
            "data_owner_sent_bytes": first.bytes.data_owner_sent,
            "model_owner_sent_bytes": first.bytes.model_owner_sent,
            "crypto_provider_sent_bytes": first.bytes.crypto_provider_sent,
        },
    )


def measure_servers_memory(deployment: Deployment) -> dict[str, int]:
    """Highest resident memory of each server so far, in bytes. Raises ComputationFailed if one has ended."""
    return _read_of_servers(deployment, peak_rss_bytes)


def _read_of_servers(deployment: Deployment, read: Callable[[int], Figure | None]) -> dict[str, Figure]:
    found = {}
    for party, process_id in deployment.process_ids().items():
        value = read(process_id)
        if value is None:
            log = read_last_words(deployment.folder / f"{party.replace('_', '-')}.log")
            raise ComputationFailed(f"{party} ended during the benchmark: {log}")
        found[party] = value
    return found


def _link_traffic(counted: Bytes) -> tuple[LinkTraffic, ...]:
    return tuple(
        LinkTraffic(
            sender=one.sender.value.replace("-", "_"),
            receiver=one.receiver.value.replace("-", "_"),
            offline_bytes=one.offline,
            online_bytes=one.online,
        )
        for one in counted.links
    )


def measure_waited_share(network: Network) -> float:
    """Share of the answers' bytes that still has to come when the last opening of their layer has arrived.

    A large layer of comparisons crosses in parts: the data owner answers one while the model owner opens the next, so
    that the answer to the last part alone is waited for. 1 if every layer is one part.
    """
    layers = list(_list_comparisons(network))
    counts = [prod(layer) for layer in layers]
    waited = [part_count(layer) for layer in layers]
    return sum(waited) / sum(counts) if counts else 1.0


def _list_comparisons(network: Network) -> Iterator[tuple[int, ...]]:
    """Shape of each layer of comparisons, as `secure_computation.engines.masked.session.walk` takes them."""
    shapes = network.shapes()
    for operation in network.operations:
        yield from _list_in(operation, shapes[operation.inputs[0]], shapes[operation.output])


def _list_in(operation: Operation, given: tuple[int, ...], output: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    match operation:
        case Relu():
            yield output
        case Clip():
            yield from (output, output)
        case MaxPool():
            channels, height, width = output
            padded_width = given[2] + operation.padding[1] + operation.padding[3]
            for cells, windows in zip(operation.kernel, (height * padded_width, height * width), strict=True):
                left = cells
                while left > 1:
                    pairs = left // 2
                    yield (channels * windows * pairs,)
                    left -= pairs
        case _:
            return
