"""`scripts/bench peers`."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.configuration import find_model, name_of
from benchmarks.peers import NAMES, catalogue
from contract.command_line import console


def peers(
    peers: Annotated[str, typer.Option(help="Which to compare, separated by commas.")] = ",".join(NAMES),
    model: Annotated[str, typer.Option(help="resnet18, resnet18-maxpool, or a folder.")] = "resnet18",
    *,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each peer, after a warm-up.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the first phantom radiograph; each run has another.")] = 1,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one run, or one set-up, may take.")] = 900,
    install: Annotated[bool, typer.Option(help="SPU into .venv-spu, where it is missing.")] = True,
    save: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON, alone on stdout.")] = False,
) -> None:
    """Ours beside what a researcher would use instead: CrypTen, SPU, plaintext. Outputs compared, trust stated."""
    from benchmarks.comparison import measure_peers, parse_peers
    from benchmarks.comparison_table import print_peers, tell_doubtful
    from benchmarks.progress import shown_steps
    from benchmarks.variants import variant

    known = catalogue(install=install)
    chosen = {name: known[name] for name in parse_peers(peers, tuple(known))}
    folder = find_model(model)
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
