"""`scripts/bench`: measures what is built, beside what others built."""

import signal
import sys
from types import FrameType
from typing import NoReturn

from benchmarks.commands.aggregation import aggregation
from benchmarks.commands.agreement import agreement
from benchmarks.commands.ariann import ariann
from benchmarks.commands.endurance import endurance
from benchmarks.commands.federation import federation
from benchmarks.commands.figures import figures
from benchmarks.commands.growth import growth
from benchmarks.commands.latency import latency
from benchmarks.commands.networks import networks
from benchmarks.commands.peers import peers
from benchmarks.commands.predict import predict
from benchmarks.commands.report import report
from benchmarks.commands.scale import scale
from plumbing.command_line import new_app, run

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COMMANDS = (
    *(latency, networks, predict, peers, ariann, scale, growth, endurance),
    *(aggregation, federation, agreement, report, figures),
)
"""One function each, in benchmarks/commands. They import what measures inside, so that --help is quick."""

app = new_app("Benchmarks. benchmarks/README.md says what is measured and how.")


@app.callback()
def _group() -> None:
    """Benchmarks. benchmarks/README.md says what is measured and how."""


for _command in COMMANDS:
    app.command()(_command)


def _stop_once(number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind, so that every process is ended; a second signal must not interrupt that."""
    for one in STOP_SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> None:
    """Entry point of `scripts/bench`."""
    for one in STOP_SIGNALS:
        signal.signal(one, _stop_once)
    run(app, name="bench")


if __name__ == "__main__":
    main()
