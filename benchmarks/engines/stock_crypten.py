"""CrypTen as published, on the same weights and the same tensor."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.case import Case, Pictures
from benchmarks.measuring import Link, Measurement
from benchmarks.peers import stock_crypten


@contextmanager
def stock(case: Case, timeout_seconds: float) -> Iterator["StockCrypTen"]:
    """Compile the model for it; its processes are new in every run."""
    _ = case.compiled
    yield StockCrypTen(case, timeout_seconds)


class StockCrypTen:
    """Three processes for each measurement."""

    def __init__(self, case: Case, timeout_seconds: float) -> None:
        """Measure on the files of `case`."""
        self._case = case
        self._timeout_seconds = timeout_seconds

    def measure(self, pictures: Pictures) -> Measurement:
        """Evaluate the pictures once. Its third party deals while the image waits, so everything here is online."""
        files = self._case.compiled
        result = stock_crypten.run(files.network, files.weights, pictures.tensor, timeout=self._timeout_seconds)
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


def _links(result: stock_crypten.StockCrypTenResult) -> tuple[Link, ...]:
    # An opening is an exchange of equal messages, so half of the bytes go each way; only the few of the answer do not.
    half = result.online_bytes // 2
    return (
        Link(sender="data_owner", receiver="model_owner", offline_bytes=0, online_bytes=result.online_bytes - half),
        Link(sender="model_owner", receiver="data_owner", offline_bytes=0, online_bytes=half),
        # Its questions are counted in: some hundred bytes each.
        Link(sender="third_party", receiver="data_owner", offline_bytes=0, online_bytes=result.third_party_bytes),
    )
