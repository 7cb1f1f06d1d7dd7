"""CrypTen as published, on the same weights and the same tensor."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.case import Case, Pictures
from benchmarks.measuring import LinkTraffic, Measurement, Opener
from benchmarks.peers import stock_crypten
from benchmarks.relay import Relay, relayed
from model_owner.link_profiles import LOOPBACK, LinkProfile


def stock(link: LinkProfile = LOOPBACK) -> Opener:
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
        """Measure on the files of `case`, through `relay` if there is one."""
        self._relay = relay
        self._case = case
        self._timeout_seconds = timeout_seconds

    def measure(self, pictures: Pictures) -> Measurement:
        """Evaluate the pictures once. Its third party deals while the image waits, so everything here is online."""
        files = self._case.compiled
        result = stock_crypten.run(
            files.network, files.weights, pictures.tensor, timeout=self._timeout_seconds, relay=self._relay
        )
        # An opening is an exchange of equal messages: half of the bytes go each way, except the few of the answer.
        half = result.online_bytes // 2
        links = {
            ("data_owner", "model_owner"): result.online_bytes - half,
            ("model_owner", "data_owner"): half,
            # Its questions are counted in: some hundred bytes each.
            ("third_party", "data_owner"): result.third_party_bytes,
        }
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
            links=tuple(
                LinkTraffic(sender=sender, receiver=receiver, offline_bytes=0, online_bytes=count)
                for (sender, receiver), count in links.items()
            ),
            cpu_seconds=dict(result.cpu_seconds),
            details={
                "rounds": result.rounds,
                "third_party_requests": result.third_party_requests,
                "third_party_bytes": result.third_party_bytes,
            },
        )
