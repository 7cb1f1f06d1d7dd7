"""Behaves as benchmarks/peers/spu_party.py does, or badly: `fake_spu.py BEHAVIOUR compile|evaluate ...`."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

LOGITS = [0.25, -1.5, 3.0]
TRAFFIC = "Link details: total send bytes 700, recv bytes 300, send actions 9, recv actions 9"


def main() -> None:
    behaviour = sys.argv[1]
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("network", type=Path)
    for option in ("--shapes", "--code", "--report", "--weights"):
        parser.add_argument(option, type=Path)
    for option in ("--protocol", "--addresses", "--threads", "--timeout"):
        parser.add_argument(option)
    parser.add_argument("--rank", type=int)
    arguments = parser.parse_args(sys.argv[2:])
    if arguments.task == "compile":
        if behaviour == "cannot compile":
            sys.exit("no rule for this operation")
        arguments.code.write_bytes(b"code")
        return
    assert arguments.code.exists()
    rank = arguments.rank
    assert (arguments.weights is not None) == (rank == 1)  # the data owner's process is not told where weights are
    (arguments.report / f"{rank}.pid").write_text(str(os.getpid()))
    write(arguments.report, rank, 0, json.dumps({"seconds": 0.5}))
    for number, line in enumerate(sys.stdin, start=1):
        assert line.endswith(".npy\n")
        evaluate(behaviour, arguments.report, rank, number)


def evaluate(behaviour: str, folder: Path, rank: int, number: int) -> None:
    if behaviour == "crash" and rank == 1:
        sys.exit("the reason why")
    if behaviour in {"hang", "crash"}:
        time.sleep(3600)
    if behaviour != "silent":
        sys.stdout.write(TRAFFIC + "\n")
        sys.stdout.flush()
    report = {
        "logits": [] if rank else LOGITS,
        "seconds": 1.5 + number,
        "cpu_seconds": 0.5,
        "peak_rss_bytes": 1000 + rank,
    }
    text = json.dumps(report)
    if behaviour == "unreadable":
        text = text[:-3]
    elif behaviour == "surplus":
        text = json.dumps(report | {"weights": [1.0]})
    elif behaviour == "endless":
        text = "[" * (2 << 20)
    elif behaviour == "negative":
        text = json.dumps(report | {"seconds": -1.0})
    elif behaviour == "not numbers":
        text = text.replace("0.25", "NaN")
    write(folder, rank, number, text)


def write(folder: Path, rank: int, number: int, text: str) -> None:
    part = folder / f"{rank}-{number}.part"
    part.write_text(text)
    part.rename(folder / f"{rank}-{number}.json")


if __name__ == "__main__":
    main()
