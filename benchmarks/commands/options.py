"""Options that several subcommands take, with the same meaning in each."""

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from benchmarks.engines import NAMES

ALL_ENGINES: Final = ",".join(NAMES)

Engines: TypeAlias = Annotated[str, typer.Option(help="Which to measure, in turns, separated by commas.")]
Model: TypeAlias = Annotated[str, typer.Option(help="resnet18, resnet18-maxpool, or a folder.")]
OneModel: TypeAlias = Annotated[str, typer.Option(help="resnet18, or a folder with model.onnx and card.json.")]
"""Where no variant of it is measured."""
Seed: TypeAlias = Annotated[int, typer.Option(min=0, help="Of the first phantom radiograph; each run has another.")]
Timeout: TypeAlias = Annotated[float, typer.Option(min=1, help="Seconds that one run may take.")]
SaveFolder: TypeAlias = Annotated[
    Path | None, typer.Option(help="Also write every run to a new JSON file in this folder.")
]
SaveFile: TypeAlias = Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object, alone on stdout.")]
