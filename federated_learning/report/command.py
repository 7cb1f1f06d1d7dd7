"""`federated-learning evaluate` and `federated-learning report`."""

from pathlib import Path
from typing import Annotated

import typer

from federated_learning.centralised_command import Data, Manifest, ReportedRoles
from federated_learning.report import PAGE, RESULTS


def evaluate(
    *,
    run: Annotated[
        Path | None, typer.Option(help="Output folder of a finished training.", file_okay=False, exists=True)
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="In its place: folder of a published model.", file_okay=False, exists=True)
    ] = None,
    name: Annotated[str, typer.Option(help="What the report calls it, say federated-secure.")],
    data: Data,
    manifest: Manifest = None,
    validation_role: Annotated[
        str | None, typer.Option(help="With --model: the role that it was chosen on; else validation.")
    ] = None,
    test_role: ReportedRoles = None,
    results: Annotated[Path, typer.Option(help="Folder of result files.", file_okay=False)] = RESULTS,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Write what a run, or a published model, predicts for each example of validation and test roles."""
    import torch
    from pydantic import TypeAdapter, ValidationError

    from contract.base import Name
    from contract.errors import CallerError
    from contract.model_card import read_card
    from federated_learning.data_source import open_source, test_roles
    from federated_learning.data_source import validation_role as role_to_validate_on
    from federated_learning.report.evaluating import evaluate as evaluate_run
    from federated_learning.report.evaluating import evaluate_published
    from federated_learning.report.results import write_result
    from federated_learning.run_records import read_run

    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise CallerError("--name takes lower case letters, digits and hyphens: it names the result file") from error
    torch.set_num_threads(threads)
    if run is not None and model is None:
        source = open_source(data, classes=read_run(run).description.classes, table=manifest)
        roles = test_roles(source, test_role)
        result = evaluate_run(run, name=name, source=source, test_roles=roles, progress=typer.echo)
    elif model is not None and run is None:
        source = open_source(data, classes=read_card(model / "card.json").classes, table=manifest)
        result = evaluate_published(
            model,
            name=name,
            source=source,
            validation_role=role_to_validate_on(source, validation_role),
            test_roles=test_roles(source, test_role),
            progress=typer.echo,
        )
    else:
        raise CallerError("give either --run, a training's folder, or --model, a published model's")
    typer.echo(f"written: {write_result(result, results)}")


def report(
    *,
    results: Annotated[Path, typer.Option(help="Folder of result files.", file_okay=False, exists=True)] = RESULTS,
    page: Annotated[Path, typer.Option(help="Where the page is written; plots go beside it.", dir_okay=False)] = PAGE,
) -> None:
    """Compare all evaluated runs: a page with tables and plots, made from their result files alone."""
    from federated_learning.report.page import write

    write(results, page)
    typer.echo(f"written: {page}")
