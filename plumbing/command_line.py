"""What every command line of the project shares: how an app is made, run, and how it fails."""

import atexit
import gc
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Annotated, Final, NoReturn

import typer
from click.exceptions import Abort, ClickException, NoArgsIsHelpError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from typer.main import get_command

from contract.errors import CallerError, ConfigurationError, EncryptedInferenceError
from plumbing.argument_words import refuse_empty
from plumbing.output import fill_standard_streams, for_people, is_file_name_byte, printable, write_out
from plumbing.usage_errors import explain_usage

DISTRIBUTION: Final = "encrypted-medical-inference"
"""What pip calls the whole project."""
_OBJECTS_BETWEEN_COLLECTIONS: Final = 20_000
_FOR_TRAINING: Final = frozenset({"flwr", "monai", "onnxscript", "matplotlib", "scipy", "Crypto"})
"""What the extra `training` brings and a plain `pip install` leaves out, by the names under which it is imported."""


def new_program(help_text: str) -> typer.Typer:
    """The app of an installed command: commands within, `--version`, and completion in the user's shell."""
    app = new_app(help_text, completion=True)
    app.callback()(_offer_version)
    return app


def _show_version(context: typer.Context, asked: bool) -> None:  # noqa: FBT001  (click calls it so)
    if asked and not context.resilient_parsing:
        write_out(f"{context.info_name} {metadata.version(DISTRIBUTION)}")
        raise typer.Exit


def _offer_version(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    del version  # `_show_version` has answered


def new_app(help_text: str, *, completion: bool = False) -> typer.Typer:
    """A typer app in the project's manner. No pretty tracebacks: they print local variables, which may be secrets."""
    return typer.Typer(
        help=help_text,
        add_completion=completion,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def refuse_no_number(value: float | None) -> float | None:
    """The callback of options that take a number: a range lets nan and infinity through. Raises typer.BadParameter."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("no number")
    return value


def console() -> Console:
    """The console for people. It writes to stderr: stdout belongs to results."""
    return Console(file=for_people(), highlight=False)


def say(text: str) -> None:
    """One line for people, on stderr, as it stands: no markup is read in it, nothing in it moves a cursor."""
    for_people().write(f"{printable(text)}\n")


@contextmanager
def show_status(first: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is being done, while the block runs: call with the words of each step. Else nothing."""
    with console().status(first) as status:
        yield lambda words: status.update(escape(words))


@contextmanager
def shown_steps(name: str) -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being done, while the block runs: call with the words of each step.

    On a terminal the last step is shown with the seconds that it has taken; elsewhere each is a line after `name`.
    """
    output = console()
    if not output.is_terminal:
        yield lambda words: say(f"{name}: {words}")
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=output,
        transient=True,
    ) as bars:

        def step(words: str) -> None:
            for task in bars.task_ids:
                bars.remove_task(task)
            bars.add_task(words, total=None)

        yield step


def one_line(error: EncryptedInferenceError) -> str:
    """The message without line breaks and control characters: some of its words may be a peer's."""
    return _on_one_line(str(error))


def _on_one_line(words: str) -> str:
    text = " ".join(words.split())
    return "".join(printable(one) for one in text if one.isprintable() or is_file_name_byte(one))


def run(app: typer.Typer, *, name: str, typed: str | None = None, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the app and exit. An error of our tree becomes one line on stderr and the exit status of its class.

    So do arguments that are wrong, with status 2, and a package for training that is not installed. `typed` is what
    the user types to run it, if that is not `name`.
    """
    fill_standard_streams()
    _collect_no_rubbish()
    given, program = list(sys.argv[1:] if arguments is None else arguments), typed or name
    try:
        refuse_empty(given)
        status = get_command(app).main(given, prog_name=program, standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except NoArgsIsHelpError as asked:  # the help is on the screen
        sys.exit(asked.exit_code)
    except ClickException as error:
        say(f"{name}: {_on_one_line(explain_usage(error, program=program))}")
        sys.exit(CallerError.exit_status)
    except Abort:
        say(f"{name}: stopped; nothing was changed")
        sys.exit(1)
    except EncryptedInferenceError as error:
        say(f"{name}: {one_line(error)}")
        sys.exit(error.exit_status)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _FOR_TRAINING:
            raise
        say(f"{name}: training needs more packages: run pip install '.[training]' in the project's folder")
        sys.exit(ConfigurationError.exit_status)


def _collect_no_rubbish() -> None:
    """Loading makes hardly any, and at the end it goes anyway: looking for it takes a quarter of a short command."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def log_to_stderr() -> None:
    """Log a server's own events, one line each, on stderr. Libraries only speak up when something is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request with its URL
