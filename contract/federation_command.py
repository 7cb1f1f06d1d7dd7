"""`federation`: the authority on its own machine, and certificates for the parties.

on the authority's machine   federation init --folder authority
on each party's machine      federation request --role data-owner --organisation st-mary --folder credentials
on the authority's machine   federation enroll st-mary.csr --authority authority --out st-mary.pem
"""

from pathlib import Path
from typing import Annotated

import typer

from contract.authority import (
    AUTHORITY_CERTIFICATE,
    AUTHORITY_KEY,
    create_authority,
    create_request,
    party_credentials,
    read_certificate,
    read_request,
    sign_request,
    write_certificate,
)
from contract.command_line import new_app, run, say
from contract.errors import CallerError, ConfigurationError, PeerViolation
from contract.identity import Party, Role

app = new_app("The federation's authority, and certificates for its parties.")

FolderOption = Annotated[Path, typer.Option("--folder", help="Where keys and certificates are written.")]
RoleOption = Annotated[Role, typer.Option("--role", help="What the party does.")]
OrganisationOption = Annotated[
    str, typer.Option("--organisation", help="Whose party it is: lower-case letters, digits, hyphens.")
]
HostOption = Annotated[
    list[str] | None,
    typer.Option("--host", help="Name or address for outer TLS (front end only, usually). May be repeated."),
]
DaysOption = Annotated[int, typer.Option("--days", help="How long the certificate is valid.")]
AuthorityOption = Annotated[Path, typer.Option("--authority", help="The authority's folder.")]


@app.command()
def init(folder: FolderOption) -> None:
    """Make the federation's authority. Do it once, on a machine of its own or offline."""
    certificate = create_authority(folder)
    say(f"Wrote {folder / AUTHORITY_KEY} (keep it here, back it up) and {certificate} (give it to every party).")
    say("Next, on each party's machine: federation request --role ROLE --organisation NAME --folder credentials")


@app.command()
def request(role: RoleOption, organisation: OrganisationOption, folder: FolderOption, host: HostOption = None) -> None:
    """Make a party's own key and a signing request, on the party's machine."""
    party = _party(role, organisation)
    path = create_request(party, folder, hosts=host or ())
    files = party_credentials(party, folder)
    say(f"Wrote {files.key} (never leaves this machine) and {path} for the {party}.")
    say(f"Fingerprint: {read_request(path).fingerprint}")
    say(
        f"Next: send {path} to the authority and tell it the fingerprint some other way; put the certificate that "
        f"comes back at {files.certificate} and the authority's at {files.authority}."
    )


@app.command()
def enroll(
    *,
    authority: AuthorityOption,
    signing_request: Annotated[
        Path | None, typer.Argument(metavar="[REQUEST.csr]", help="The party's signing request.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where the certificate is written.")] = None,
    days: DaysOption = 365,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
    role: Annotated[Role | None, typer.Option("--role", help="In one step, without a request: the role.")] = None,
    organisation: Annotated[str | None, typer.Option("--organisation", help="In one step: the organisation.")] = None,
    folder: Annotated[Path | None, typer.Option("--folder", help="In one step: the party's folder.")] = None,
    host: HostOption = None,
) -> None:
    """Sign a party's request, on the authority's machine.

    With --role, --organisation and --folder in place of a request, makes key, request and certificate in one step:
    for trials on one machine, since the party's key should be made where it stays.
    """
    if signing_request is not None and out is not None and role is None and folder is None and organisation is None:
        _sign(authority, signing_request, out, days=days, yes=yes)
    elif role is not None and organisation is not None and folder is not None and signing_request is None:
        _enroll_here(authority, _party(role, organisation), folder, days=days, hosts=host or [])
    else:
        raise CallerError("give either REQUEST.csr and --out, or --role, --organisation and --folder")


def _sign(authority: Path, path: Path, out: Path, *, days: int, yes: bool) -> None:
    wanted = read_request(path)
    say(f"{path} asks for a certificate for the {wanted.party}, hosts: {', '.join(wanted.hosts) or 'none'}.")
    say(f"Fingerprint: {wanted.fingerprint}")
    if not yes:
        typer.confirm("Did the party read you this fingerprint? Sign?", abort=True, err=True)
    write_certificate(out, sign_request(authority, path, days=days, hosts=wanted.hosts))
    say(f"Wrote {out}, valid for {days} days. Next: send it and {authority / AUTHORITY_CERTIFICATE} to the party.")


def _enroll_here(authority: Path, party: Party, folder: Path, *, days: int, hosts: list[str]) -> None:
    files = party_credentials(party, folder)
    _copy_authority(authority / AUTHORITY_CERTIFICATE, files.authority)
    path = create_request(party, folder, hosts=hosts)
    write_certificate(files.certificate, sign_request(authority, path, days=days, hosts=hosts))
    path.unlink()
    say(f"Wrote {files.key}, {files.certificate} and {files.authority} for the {party}.")


def _copy_authority(source: Path, target: Path) -> None:
    content = read_certificate(source)
    if not target.exists():
        write_certificate(target, content)
    elif read_certificate(target) != content:
        raise ConfigurationError(f"{target}: is another federation's authority; choose another folder")


def _party(role: Role, organisation: str) -> Party:
    try:
        return Party(role=role, organisation=organisation)
    except PeerViolation as error:
        raise CallerError(f"{error}; correct --organisation") from error


def main() -> None:
    """Entry point of the `federation` command."""
    run(app, name="federation")
