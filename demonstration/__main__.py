"""`scripts/demo`: the whole system on this machine."""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from contract.ticket import Engine
from demonstration.checks import check_demo
from plumbing.command_line import console, new_app, run, say, shown_steps

if TYPE_CHECKING:
    from contract.model_card import ModelCard
    from data_owner.diagnosis import Diagnosis
    from demonstration.demo import Comparison

app = new_app("Start all parties on loopback, diagnose the files (or a phantom radiograph), compare with plaintext.")


@app.command()
def demo(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE ...", help="DICOM, NIfTI, PNG, JPEG or TIFF.")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="How the network is evaluated on shares.")] = Engine.MASKED,
    model: Annotated[
        Path | None, typer.Option(help="Folder with model.onnx and card.json, if not the shipped.")
    ] = None,
    heat_map: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="New picture of what speaks for the answer; for several FILEs, a folder."),
    ] = None,
    *,
    as_is: Annotated[bool, typer.Option("--as-is", help="Bright and dark are right as they are.")] = False,
    invert: Annotated[
        bool, typer.Option("--invert", help="The files are negatives: exchange bright and dark.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file, alone on stdout.")] = False,
    ui: Annotated[bool, typer.Option("--ui", help="Open the clinician's page instead, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: any free one.")] = 0,
) -> None:
    """Start all parties on loopback, diagnose the files (or a phantom radiograph), compare with plaintext."""
    asked = [path.resolve() for path in files or []]
    check_demo(
        files or [], model=model, as_is=as_is, invert=invert, heat_map=heat_map, as_json=as_json, ui=ui, port=port
    )
    with ExitStack() as stack:
        with shown_steps("demo") as on_step:
            from contract.model_card import read_card
            from data_owner.command import read_polarity
            from demonstration.demo import MODEL_FOLDER, compare, run_parties, select_readable, show_page

            folder = model or MODEL_FOLDER
            card = read_card(folder / "card.json")
            good, status = select_readable(asked, card)
            if asked and not good:
                sys.exit(status)
            deployment, submitted = stack.enter_context(run_parties(good, folder, on_step))
        if ui:
            show_page(deployment, submitted, port=port)
            return
        if not console().is_terminal:  # there, the data owner draws its own progress
            say("demo: diagnosing; the first answer takes some seconds")
        polarity = read_polarity(as_is=as_is, invert=invert)
        for diagnosis, comparison in compare(
            deployment, submitted, engine, folder, polarity=polarity, heat_map=heat_map
        ):
            if as_json:
                sys.stdout.write(comparison.model_dump_json() + "\n")
                sys.stdout.flush()
            else:
                _print(diagnosis, comparison, card)
            comparison.require_same_answer()
    if status:
        sys.exit(status)


def _print(diagnosis: "Diagnosis", comparison: "Comparison", card: "ModelCard") -> None:
    from rich.console import Console

    from data_owner.presentation import print_diagnosis
    from data_owner.wording import summarise

    output = Console(highlight=False)
    unasked = tuple(one.model_copy(update={"confirmed": False}) for one in diagnosis.warnings)
    print_diagnosis(output, diagnosis.model_copy(update={"warnings": unasked}), card)
    if unasked != diagnosis.warnings:
        text = "Before it submits such a picture, data-owner diagnose asks; the demonstration does not."
        output.print(text, markup=False, soft_wrap=True)
    error = comparison.max_abs_error
    difference = "no logits to compare" if error is None else f"logits differ by at most {error:.2g}"
    output.print(
        f"The same model in clear (onnxruntime): {summarise(comparison.plaintext)}; {difference}.",
        markup=False,
        soft_wrap=True,
    )
    who = ", ".join(f"{role.replace('_', ' ')} {process}" for role, process in comparison.processes.items())
    output.print(f"Processes: {who}.\n", markup=False, soft_wrap=True)


def main() -> None:
    """Entry point of `scripts/demo`. A termination signal unwinds like Ctrl-C, so that no process is left behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _unwind)
    run(app, name="demo", typed="scripts/demo")


def _unwind(number: int, _frame: FrameType | None) -> NoReturn:
    for other in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
