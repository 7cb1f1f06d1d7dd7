"""`model-owner`: import a model, check it, serve it.

model-owner card --from model.onnx
model-owner import model.onnx --card card.json
model-owner check pediatric-pneumonia-resnet18 --samples chest.dcm
model-owner serve --config model-owner.toml
model-owner audit list --organisation st-mary --config model-owner.toml
model-owner withdraw pediatric-pneumonia-resnet18 2.0.0 --config model-owner.toml
model-owner accounts list --config model-owner.toml
model-owner verdict record.json --authority authority.pem
"""

import os
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import SecretStr

from bookkeeping.audit_command import audit_app
from bookkeeping.audit_log import AuditLog
from contract.errors import ConfigurationError, PeerViolation, Refused, TransportError
from model_owner.accounts_command import accounts_app
from model_owner.settings import ModelOwnerSettings
from model_owner.stopped_accounts import StoppedAccounts
from plumbing.command_line import log_to_stderr, new_program, refuse_no_number, run, say, show_status
from plumbing.listening import LISTEN, take_port
from plumbing.output import write_out
from plumbing.settings import AtRest, load_settings

if TYPE_CHECKING:
    from socket import socket

    from rich.console import Console
    from rich.table import Table

    from contract.api import AuditHead
    from model_owner.checking import CheckReport, FixedPointReport
    from secure_computation.at_rest import StorageKey

app = new_program("The model owner: its weights never leave this machine.")

DataFolder = Annotated[
    Path,
    typer.Option("--data-folder", envvar="MODEL_OWNER_DATA_FOLDER", help="Where imported models are kept."),
]
DEFAULT_DATA_FOLDER = Path("model-owner-data")
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        envvar="MODEL_OWNER_AT_REST__KEY_FILE",
        help="The key that seals weights; or set the variable MODEL_OWNER_AT_REST__KEY.",
    ),
]
MOST_MEMORY = 1 << 20
"""GiB, more than any machine has: a number that the system cannot take is a typing error."""
Memory = Annotated[
    int,
    typer.Option(
        "--memory",
        min=1,
        max=MOST_MEMORY,
        metavar="GIB",
        help="Memory that a model may take besides what the program itself takes.",
    ),
]
DEFAULT_MEMORY = 8
_MORE_MEMORY = "use a smaller one, or allow more with --memory"


@app.command()
def card(
    model: Annotated[Path, typer.Option("--from", metavar="MODEL.onnx", help="The model, as ONNX.")],
    output: Annotated[Path | None, typer.Option(help="Where to write; card.json beside the model if left out.")] = None,
) -> None:
    """Write a card with all that a model tells about itself; the rest is marked for you to fill in."""
    from model_owner.bounded_memory import bounded_memory
    from model_owner.card_drafting import draft_card, list_unfilled_fields, write_card

    target = output or model.parent / "card.json"
    with bounded_memory(DEFAULT_MEMORY << 30, remedy="use a smaller one"):
        drafted = draft_card(model)
    write_card(drafted, target)
    say(f"Wrote {target}. Fill in what is marked FILL IN: {', '.join(list_unfilled_fields(drafted))}.")
    say("docs/own-model.md explains every field, also optional ones.")
    key, imported = model.parent / "at-rest.key", model.parent / "imported"
    if not key.exists():
        say(f"Then make the key that seals weights: {_show_key_command(key)}")
    folders = ["--data-folder", str(imported), "--key-file", str(key)]
    say(f"Then import it: {join(['model-owner', 'import', str(model), '--card', str(target), *folders])}")


def _show_key_command(key: Path) -> str:
    """What makes a new key file that only this account reads."""
    return f"(umask 077 && head -c 32 /dev/urandom | base64 > {quote(str(key))})"


@app.command("import")
def import_model(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model, as ONNX.")],
    card: Annotated[Path, typer.Option("--card", help="Its model card, card.json.")],
    data_folder: DataFolder = DEFAULT_DATA_FOLDER,
    key_file: KeyFile = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option("--calibration", help="Image to measure ranges on; repeat for several. Phantoms if left out."),
    ] = None,
    *,
    logit_error: Annotated[
        float | None,
        typer.Option(
            "--logit-error",
            min=1e-6,
            max=1e6,
            callback=refuse_no_number,
            metavar="E",
            help="How far logits may be from floating point on these images. About 0.03 if left out; a larger error "
            "costs less traffic.",
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Public pictures whose answers the card is to vouch for; hospitals check the model by them.",
        ),
    ] = None,
    memory: Memory = DEFAULT_MEMORY,
) -> None:
    """Compile an ONNX model into a public plan and private weights, and keep both."""
    from model_owner.bounded_memory import bounded_memory
    from model_owner.imported_models import ImportedModels

    with bounded_memory(memory << 30, remedy=_MORE_MEMORY), show_status("starting") as on_step:
        imported = ImportedModels(data_folder, _read_storage_key(key_file))
        added = imported.add(
            model,
            card,
            tuple(calibration or ()),
            logit_error=logit_error,
            references=references,
            on_step=on_step,
        )
    say(f"Imported {added.card.name} {added.card.version} into {added.folder}.")
    if added.precision is not None:
        say(f"Masked engine: {added.precision.describe()}.")
    if added.card.references is not None:
        say(
            f"Its card vouches for the answers to {len(added.card.references.pictures)} reference pictures: give "
            f"hospitals a copy of {references}, for `data-owner verify`."
        )
    key = [] if key_file is None else ["--key-file", str(key_file)]
    check_it = ["model-owner", "check", added.card.name, "--data-folder", str(data_folder), *key]
    say(f"Plan {added.plan_hash}; next: {join(check_it)}")


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(help="Needed if several models are imported.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="The newest if left out.")] = None,
    samples: Annotated[
        list[Path] | None, typer.Option("--samples", help="Image to try the model on; repeat for several.")
    ] = None,
    data_folder: DataFolder = DEFAULT_DATA_FOLDER,
    key_file: KeyFile = None,
    *,
    memory: Memory = DEFAULT_MEMORY,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Report layers, value ranges, predicted cost, and the gap to onnxruntime."""
    from model_owner.bounded_memory import bounded_memory
    from model_owner.checking import check_model
    from model_owner.imported_models import ImportedModels

    imported = ImportedModels(data_folder, _read_storage_key(key_file))
    with bounded_memory(memory << 30, remedy=_MORE_MEMORY):
        report = check_model(imported.load(name, version), tuple(samples or ()))
    if as_json:
        write_out(report.model_dump_json())
    else:
        _print_report(report)


@app.command()
def withdraw(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[str, typer.Argument(help="The version to take out of service.")],
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
) -> None:
    """Take a version out of service for good. Sessions that run come to their end, new ones are refused."""
    from inference_service.client import InferenceServiceClient
    from model_owner.imported_models import ImportedModels
    from secure_computation.at_rest import StorageKey

    settings = load_settings(ModelOwnerSettings, config)
    imported = ImportedModels(settings.data_folder, StorageKey.of(settings.at_rest))
    imported.withdraw(name, version)  # first here: this is what a running server goes by
    AuditLog(settings.audit_folder, keep_days=settings.audit_days).record(
        "model-withdrawn", model=name, version=version
    )
    say(f"{name} {version} is withdrawn: this model owner refuses new sessions with it.")
    front_end = settings.inference_service
    try:
        with InferenceServiceClient.of(front_end) as client:
            client.withdraw_model(name, version)
    except TransportError:
        say("The front end was not reached and still lists it: run this again, or `model-owner serve` will tell it.")
        raise
    say("The front end no longer lists it.")


def _find_audit_folder(config: Path | None) -> Path:
    return load_settings(ModelOwnerSettings, config).audit_folder


def _ask_audit_head(config: Path | None) -> "AuditHead | None":
    """What the front end remembers of this log; None if it remembers nothing."""
    from inference_service.client import InferenceServiceClient

    front_end = load_settings(ModelOwnerSettings, config).inference_service
    try:
        with InferenceServiceClient.of(front_end) as client:
            return client.audit_head()
    except Refused as error:
        say(f"The front end remembers nothing of this log: {error}")
        return None


app.add_typer(audit_app(_find_audit_folder, _ask_audit_head), name="audit")


def _find_stopped_accounts(config: Path | None) -> StoppedAccounts:
    settings = load_settings(ModelOwnerSettings, config)
    audit = AuditLog(settings.audit_folder, keep_days=settings.audit_days)
    return StoppedAccounts(data_folder=settings.data_folder, audit=audit)


app.add_typer(accounts_app(_find_stopped_accounts), name="accounts")


@app.command()
def verdict(
    record: Annotated[Path, typer.Argument(metavar="FILE", help="A record from the folder `violations`.")],
    authority: Annotated[Path, typer.Option("--authority", help="The federation authority's certificate.")],
    revocations: Annotated[
        Path | None, typer.Option("--revocations", help="The authority's list of revoked certificates.")
    ] = None,
) -> None:
    """Say what a record of a violation shows to anybody, and what it does not. Needs no party and no settings."""
    from authority.certificates import read_certificate
    from authority.revocation import RevocationList
    from model_owner.verdict import ThirdParty, judge, read_record

    certificate = read_certificate(authority)
    revoked = None if revocations is None else RevocationList.read(revocations, certificate)
    found = judge(read_record(record), ThirdParty(authority=certificate, revocations=revoked))
    for line in found.lines():
        write_out(line)
    if not found.stands:
        raise PeerViolation(f"{record} shows nobody but the model owner that {found.accused} deviated")


@app.command()
def serve(config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None) -> None:
    """Register every imported version at the front end and serve sessions until interrupted."""
    settings = load_settings(ModelOwnerSettings, config)
    log_to_stderr()
    with take_port(settings.listen.host, settings.listen.port, setting=LISTEN) as listener:  # before what takes seconds
        _serve(settings, listener)


def _serve(settings: ModelOwnerSettings, listener: "socket") -> None:
    from contract.ticket import Engine
    from inference_service.client import InferenceServiceClient
    from model_owner.imported_models import ImportedModels
    from model_owner.registration import Registrar, withdraw_models
    from model_owner.server import INFERENCE_PATH, build_inference_app, load_models
    from secure_computation.at_rest import StorageKey
    from secure_computation.channel import serving
    from secure_computation.engines.choosing import warm_up_for, warm_up_installed

    imported = ImportedModels(settings.data_folder, StorageKey.of(settings.at_rest), limits=settings.plan_limits)
    models = load_models(imported)  # first: what is wrong with a model is the one line that is printed
    warm_up_installed()  # before the first session, not in it
    for model in models.values():
        warm_up_for(model.plan, Engine.MASKED)
    front_end = settings.inference_service
    with InferenceServiceClient.of(front_end) as client:
        server = build_inference_app(settings, models, client)
        withdraw_models(imported, client)
        registrar = Registrar(settings, models, client)
        registrar.register()
        for name, version in models:
            say(f"model owner: serving {name} {version}")
        with registrar.looking():
            serving.serve(server, listener, name="model owner", host=settings.listen.host, path=INFERENCE_PATH)


def _read_storage_key(key_file: Path | None) -> "StorageKey":
    """The key of --key-file or the environment. Raises ConfigurationError if there is none, or two."""
    from secure_computation.at_rest import StorageKey

    key = os.environ.get("MODEL_OWNER_AT_REST__KEY")
    if (key is None) == (key_file is None):
        raise ConfigurationError("give the key that seals weights with --key-file, or in MODEL_OWNER_AT_REST__KEY")
    return StorageKey.of(AtRest(key_file=key_file, key=None if key is None else SecretStr(key)))


def _print_report(report: "CheckReport") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    _print_layers(console, report)
    costs = _make_table("engine", "one-way trips >", "online MB >", "offline MB >", title="predicted for one diagnosis")
    for cost in report.costs:
        online, offline = f"{cost.online_bytes / 1e6:,.2f}", f"{cost.offline_bytes / 1e6:,.2f}"
        costs.add_row(cost.engine, str(cost.one_way_trips), online, offline)
    console.print(costs)
    _print_predictions(console, report)
    _print_line(
        console, f"The import, in clear, against the ONNX file in onnxruntime: {_describe_gap(report, report)}."
    )
    _print_fixed_point(console, report)
    console.print(f"Plan {report.plan_hash}")
    console.print(f"Card {report.card_hash}")


def _make_table(*headings: str, title: str, caption: str | None = None) -> "Table":
    """A table; columns whose headings end in > are numbers, set to the right."""
    from rich.table import Table

    table = Table(title=title, caption=caption)
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading.endswith(" >") else "left"
        table.add_column(heading.removesuffix(" >"), justify=justify, overflow="fold")
    return table


def _print_line(console: "Console", text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _print_layers(console: "Console", report: "CheckReport") -> None:
    source = ("seeded random image" if report.samples_are_random else "image") + "s" * (report.samples != 1)
    title = f"{report.name} {report.version}, value ranges over {report.samples} {source}"
    layers = _make_table("layer", "output", "weights >", "million products >", "smallest >", "largest >", title=title)
    for layer in report.layers:
        layers.add_row(
            layer.name,
            "x".join(str(size) for size in layer.shape),
            f"{layer.weights:,}",
            f"{layer.multiplications / 1e6:,.1f}",
            f"{layer.smallest:.4g}",
            f"{layer.largest:.4g}",
        )
    console.print(layers)


def _print_predictions(console: "Console", report: "CheckReport") -> None:
    from model_owner.cost_prediction import REFERENCE

    title, caption = "seconds predicted by network", f"computing as on {REFERENCE}"
    table = _make_table("network", "engine", "online s >", "offline s >", title=title, caption=caption)
    for one in report.predictions:
        table.add_row(one.link.words(), one.engine.value, f"{one.online_seconds:.3g}", f"{one.offline_seconds:.3g}")
    console.print(table)


def _print_fixed_point(console: "Console", report: "CheckReport") -> None:
    from contract.model_card import Arithmetic
    from model_owner.checking import DRAWS

    fixed = report.fixed_point
    if fixed is None:
        console.print("The masked engine cannot take this model: it is served by the crypten engine.")
        return
    for one in (fixed, report.other_arithmetic):
        if one is not None:
            use = "this plan's" if one is fixed else "with the same bits"
            if one.arithmetic is Arithmetic.DITHERED:
                use += f", {DRAWS} sessions a sample"
            rounding = f"With the masked engine's rounding in {one.arithmetic.value} arithmetic ({use})"
            _print_line(console, f"{rounding}, against the same: {_describe_gap(one, report)}.")
    if fixed.out_of_range is not None:
        _print_line(console, f"A sample leaves the range that the plan allows: {fixed.out_of_range}")
    if fixed.advice is not None:
        _print_line(console, f"Attention: {fixed.advice}.")


def _describe_gap(found: "CheckReport | FixedPointReport", report: "CheckReport") -> str:
    """How far an evaluation lies from onnxruntime's, in words."""
    from contract.model_card import Task

    same = "answers are on the same side of every threshold" if report.task is Task.MULTI_LABEL else "labels agree"
    agree = f"{found.labels_agree} of {report.samples} {same}"
    if found.max_abs_error is None or found.relative_error is None or found.max_probability_error is None:
        return agree
    return (
        f"logits differ by at most {found.max_abs_error:.2g}, {found.relative_error:.2%} of the largest "
        f"({report.largest_logit:.3g}), probabilities by at most {found.max_probability_error:.2g}; {agree}"
    )


def main() -> None:
    run(app, name="model-owner")


if __name__ == "__main__":
    main()
