"""What an operator watches, for Prometheus. One registry for each app; no label holds anything that a caller chose."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from contract.api import SessionState

_METHODS = frozenset({"GET", "PUT", "POST", "DELETE"})


class Metrics:
    """Counters of one front end."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "inference_service_requests", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "inference_service_request_seconds", "Time to answer.", ["route"], registry=self._registry
        )
        self._sessions = Counter(
            "inference_service_sessions", "Sessions that entered a state.", ["state"], registry=self._registry
        )
        for state in SessionState:
            self._sessions.labels(state=state.value)

    def request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer. `route` is the template of a route, never the path that was asked for."""
        known = method if method in _METHODS else "other"
        self._requests.labels(method=known, route=route, status=str(status)).inc()
        self._seconds.labels(route=route).observe(seconds)

    def session(self, state: SessionState) -> None:
        self._sessions.labels(state=state.value).inc()

    def exposition(self) -> bytes:
        return generate_latest(self._registry)
