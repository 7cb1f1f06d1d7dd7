"""The log: one JSON object a line. A last line of defence takes out whatever looks like an API key or a ticket."""

import logging
import re
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

_SECRET = re.compile(r"ei-[0-9a-f]{8}-[A-Za-z0-9_-]+|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")
_REDACTED = "[redacted]"


def new_log(stream: TextIO) -> FilteringBoundLogger:
    """A logger that writes to `stream` and shares nothing with other loggers of the process."""
    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            redact,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    return cast("FilteringBoundLogger", logger)


def redact(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Processor: every value becomes text without keys and tickets, unless it is a number or nothing."""
    for name, value in fields.items():
        if not isinstance(value, int | float | None):
            fields[name] = _SECRET.sub(_REDACTED, str(value))
    return fields
