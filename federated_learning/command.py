"""`federated-learning`: train, choose, evaluate and publish models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from federated_learning.centralised_command import Data, Manifest, ReportedRoles, train_centralised
from federated_learning.federated_commands import COMMANDS
from federated_learning.report.command import evaluate, report
from plumbing.command_line import new_program, run

app = new_program("Train models and publish them. Nothing here runs when images are diagnosed.")
app.command()(evaluate)
app.command()(report)
app.command()(train_centralised)
for command in COMMANDS:
    app.command()(command)


@app.command()
def publish(
    *,
    run: Annotated[Path, typer.Option(help="Output folder of a finished training.", file_okay=False, exists=True)],
    data: Data,
    manifest: Manifest = None,
    model: Annotated[Path, typer.Option(help="Folder for model.onnx, card.json and README.md.", file_okay=False)],
    test_role: ReportedRoles = None,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Export the chosen epoch, fit its temperature, and report it once on the test roles."""
    import torch

    from federated_learning.data_source import open_source, test_roles
    from federated_learning.publication import publish as publish_run
    from federated_learning.run_records import read_run

    torch.set_num_threads(threads)
    source = open_source(data, classes=read_run(run).description.classes, table=manifest)
    roles = test_roles(source, test_role)
    publish_run(run, model, source=source, test_roles=roles, progress=typer.echo)
    typer.echo(f"written: {model}")


@app.command()
def measure(
    *,
    model: Annotated[Path, typer.Option(help="Folder with model.onnx and card.json.", file_okay=False, exists=True)],
    data: Data,
    manifest: Manifest = None,
    data_set: Annotated[str, typer.Option(help="What the images are, as the card shall say it.")],
    validation_role: Annotated[
        str | None, typer.Option(help="Role to fit temperature and threshold on; else validation.")
    ] = None,
    test_role: ReportedRoles = None,
) -> None:
    """Measure a published model again: temperature, threshold of uncertainty and figures; its card is rewritten."""
    from contract.model_card import read_card
    from federated_learning.data_source import open_source, test_roles
    from federated_learning.data_source import validation_role as role_to_validate_on
    from federated_learning.publication import measure as measure_model

    card = read_card(model / "card.json")
    source = open_source(data, classes=card.classes, table=manifest)
    measure_model(
        card,
        model,
        source=source,
        data_set=data_set,
        validation_role=role_to_validate_on(source, validation_role),
        test_roles=test_roles(source, test_role),
        progress=typer.echo,
    )
    typer.echo(f"written: {model}")


def main() -> None:
    """Entry point: errors of ours become one line on stderr and their own exit status."""
    run(app, name="federated-learning")


if __name__ == "__main__":
    main()
