"""CrypTen as published, on the same weights and the same tensor."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.case import Case, Pictures
from benchmarks.measuring import Link as Traffic
from benchmarks.measuring import Measurement, Opener
from benchmarks.peers import stock_crypten
from benchmarks.relay import Relay, relayed
from secure_computation.links import LOOPBACK, Link


def stock(link: Link = LOOPBACK) -> Opener:
    """Opener of CrypTen as published, with such a link between every two processes, which are new in every run."""

    @contextmanager
    def opened(case: Case, timeout_seconds: float) -> Iterator[StockCrypTen]:
        _ = case.compiled
        if link == LOOPBACK:
            yield StockCrypTen(case, timeout_seconds)
            return
        with relayed(link) as relay:
            yield StockCrypTen(case, timeout_seconds, relay)

    return opened


class StockCrypTen:
    """Three processes for each measurement."""

    def __init__(self, case: Case, timeout_seconds: float, relay: Relay | None = None) -> None:
        """Measure on the files of `case`, through `relay` where there is one."""
        self._relay = relay
        self._case = case
        self._timeout_seconds = timeout_seconds

    def measure(self, pictures: Pictures) -> Measurement:
        """Evaluate the pictures once. Its third party deals while the image waits, so everything here is online."""
        files = self._case.compiled
        result = stock_crypten.run(
            files.network, files.weights, pictures.tensor, timeout=self._timeout_seconds, relay=self._relay
        )
        return Measurement(
            online_seconds=result.online_seconds,
            offline_seconds=0.0,
            online_bytes=result.online_bytes + result.third_party_bytes,
            offline_bytes=0,
            # Exchanges between the parties are one trip, a question to the third party and its answer are two, and
            # each waits for the one before (benchmarks/README.md).
            one_way_trips=result.rounds + 2 * result.third_party_requests,
            peak_rss_bytes=dict(result.peak_rss_bytes),
            logits=result.logits,
            links=_links(result),
            cpu_seconds=dict(result.cpu_seconds),
            details={
                "rounds": result.rounds,
                "third_party_requests": result.third_party_requests,
                "third_party_bytes": result.third_party_bytes,
            },
        )


def _links(result: stock_crypten.StockCrypTenResult) -> tuple[Traffic, ...]:
    # An opening is an exchange of equal messages, so half of the bytes go each way; only the few of the answer do not.
    half = result.online_bytes // 2
    return (
        Traffic(sender="data_owner", receiver="model_owner", offline_bytes=0, online_bytes=result.online_bytes - half),
        Traffic(sender="model_owner", receiver="data_owner", offline_bytes=0, online_bytes=half),
        # Its questions are counted in: some hundred bytes each.
        Traffic(sender="third_party", receiver="data_owner", offline_bytes=0, online_bytes=result.third_party_bytes),
    )
