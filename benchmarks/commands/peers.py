"""`scripts/bench peers`."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.giving import check_file
from benchmarks.commands.options import AsJson, Model, SaveFile, Seed
from benchmarks.configuration import find_model, name_of, parse_names
from benchmarks.peers import NAMES, catalogue
from plumbing.command_line import console


def peers(
    peers: Annotated[str, typer.Option(help="Which to compare, separated by commas.")] = ",".join(NAMES),
    model: Model = "resnet18",
    *,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each peer, after a warm-up.")] = 3,
    seed: Seed = 1,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one run, or one set-up, may take.")] = 900,
    install: Annotated[bool, typer.Option(help="SPU into .venv-spu, where it is missing.")] = True,
    save: SaveFile = None,
    as_json: AsJson = False,
) -> None:
    """Ours beside what a researcher would use instead: CrypTen, SPU, plaintext. Outputs compared, trust stated."""
    from benchmarks.comparison import measure_peers
    from benchmarks.comparison_table import print_peers, tell_doubtful
    from benchmarks.progress import shown_steps
    from benchmarks.variants import variant

    known = catalogue(install=install)
    chosen = {name: known[name] for name in parse_names(peers, known, noun="peer", option="--peers")}
    folder = find_model(model)
    check_file(save)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, shown_steps(console()) as on_step:
        result = measure_peers(
            variant(folder, Path(name), model=name_of(model, folder), side=None),
            Path(name),
            peers=chosen,
            runs=runs,
            seed=seed,
            timeout_seconds=timeout,
            on_step=on_step,
        )
    if save is not None:
        save.write_text(result.model_dump_json(indent=2) + "\n")
    if as_json:
        sys.stdout.write(result.model_dump_json() + "\n")
    else:
        print_peers(result)
    tell_doubtful(result)
