"""`scripts/bench`: measures what is built, beside what others built."""

import signal
import sys
from types import FrameType
from typing import NoReturn

from benchmarks import commands
from plumbing.command_line import new_app, run

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COMMANDS = (
    *(commands.latency, commands.networks, commands.predict, commands.peers, commands.ariann, commands.scale),
    *(commands.growth, commands.endurance, commands.aggregation, commands.federation, commands.agreement),
    *(commands.report, commands.figures),
)

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
    run(app, name="bench", typed="scripts/bench")


if __name__ == "__main__":
    main()
