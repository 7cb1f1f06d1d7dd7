"""`federation`: the authority on its own machine, and certificates for the parties.

on the authority's machine   federation init --folder authority
on each party's machine      federation request --role data-owner --organisation st-mary --folder credentials
on the authority's machine   federation enroll data-owner.csr --authority authority --out data-owner.pem
on each party's machine      federation install data-owner.pem --authority authority.pem --revocations revoked.crl
                             --role data-owner --organisation st-mary --folder credentials

later, on a party's machine  federation renew --role data-owner --organisation st-mary --folder credentials
                             (enroll and install as before; no telephone is needed)
on the authority's machine   federation revoke --authority authority --role data-owner --organisation st-mary
on a revoked party's machine federation request --replace --role data-owner --organisation st-mary --folder credentials
                             (enroll, by telephone, and install as the first time)
"""

from datetime import UTC, datetime
from pathlib import Path
from shlex import join
from typing import Annotated

import typer

from authority.certificates import PartyCertificate, read_certificate, show_time
from authority.enrolment import (
    AUTHORITY_CERTIFICATE,
    REVOCATIONS,
    create_renewal,
    create_replacement,
    create_request,
    install_certificate,
    install_revocations,
    locate_credentials,
    read_request,
)
from authority.revocation import RevocationList
from authority.signing import AUTHORITY_KEY, LIST_DAYS, MAX_DAYS, Authority, Reason, create_authority
from contract.errors import CallerError, ConfigurationError, EncryptedInferenceError, PeerViolation
from contract.files import replace as replace_file
from contract.files import write_new
from contract.identity import Party, Role
from plumbing.command_line import new_program, run, say

app = new_program("The authority, and certificates for the parties.")

FolderOption = Annotated[Path, typer.Option("--folder", help="Where keys and certificates are written.")]
RoleOption = Annotated[Role, typer.Option("--role", help="What the party does.")]
OrganisationOption = Annotated[
    str, typer.Option("--organisation", help="Whose party it is: lower-case letters, digits, hyphens.")
]
HostOption = Annotated[
    list[str] | None,
    typer.Option("--host", help="Name or address for outer TLS (front end only, usually). May be repeated."),
]
DaysOption = Annotated[int, typer.Option("--days", min=1, max=MAX_DAYS, help="How long the certificate is valid.")]
AuthorityOption = Annotated[Path, typer.Option("--authority", help="The authority's folder.")]


@app.command()
def init(folder: FolderOption) -> None:
    """Make the authority. Do it once, on a machine of its own or offline."""
    certificate = create_authority(folder)
    say(f"Wrote {folder / AUTHORITY_KEY} (keep it here, back it up).")
    say(f"Wrote {certificate} and {folder / REVOCATIONS} (no certificate is revoked): give both to every party.")
    say("Next, on each party's machine: federation request --role ROLE --organisation NAME --folder credentials")


@app.command()
def request(
    role: RoleOption,
    organisation: OrganisationOption,
    folder: FolderOption,
    host: HostOption = None,
    *,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Make a new key in place of one that was revoked or lost; that stays in use until federation install.",
        ),
    ] = False,
) -> None:
    """Make a party's own key and a signing request, on the party's machine."""
    party = _party(role, organisation)
    files = locate_credentials(party, folder)
    if replace:
        path = create_replacement(party, folder, hosts=host or ())
        say(f"Wrote {path} for a new key of the {party}, which never leaves this machine.")
    else:
        path = create_request(party, folder, hosts=host or ())
        say(f"Wrote {files.key} (never leaves this machine) and {path} for the {party}.")
    say(f"Fingerprint: {read_request(path).fingerprint}")
    say(f"Next: send {path} to the authority and tell it the fingerprint some other way.")
    say(f"Then, with the three files that come back: {_installing(party, folder, first=True)}")


@app.command()
def renew(
    role: RoleOption,
    organisation: OrganisationOption,
    folder: FolderOption,
    authority: Annotated[
        Path | None, typer.Option("--authority", help="The authority's folder, in one step: for trials on one machine.")
    ] = None,
    days: DaysOption = 365,
) -> None:
    """Make a party's next key and a signing request that the current key vouches for, on the party's machine.

    Nothing in use changes until federation install, and then without a restart.
    """
    party = _party(role, organisation)
    path = create_renewal(party, folder)
    if authority is not None:
        opened = Authority.open(authority)
        opened.require_renewal(read_request(path))
        _sign_here(opened, party, folder, path, days=days)
        return
    say(f"Wrote {path}, which the current key of the {party} vouches for.")
    say(f"Next: send {path} to the authority, which signs it with federation enroll.")
    say(f"Then, with the certificate that comes back: {_installing(party, folder, first=False)}")


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

    A request made by federation renew is signed without asking, if the certificate that it renews is good today.

    With --role, --organisation and --folder in place of a request, makes key, request and certificate in one step:
    for trials on one machine, since the party's key should be made where it stays.
    """
    if signing_request is not None and out is not None and role is None and folder is None and organisation is None:
        _sign(authority, signing_request, out, days=days, yes=yes)
    elif role is not None and organisation is not None and folder is not None and signing_request is None:
        _enroll_here(authority, _party(role, organisation), folder, days=days, hosts=host or [])
    else:
        raise CallerError("give either REQUEST.csr and --out, or --role, --organisation and --folder")


@app.command()
def install(
    certificate: Annotated[
        Path | None, typer.Argument(metavar="[CERTIFICATE.pem]", help="What the authority signed.")
    ] = None,
    *,
    role: RoleOption,
    organisation: OrganisationOption,
    folder: FolderOption,
    authority: Annotated[
        Path | None, typer.Option("--authority", help="The authority's certificate; needed the first time.")
    ] = None,
    revocations: Annotated[
        Path | None, typer.Option("--revocations", help="The authority's list of revoked certificates.")
    ] = None,
) -> None:
    """Put a certificate, a list of revoked certificates, or both in place, on the party's machine.

    Everything is checked first. A server that runs uses them from its next connection on.
    """
    party = _party(role, organisation)
    if certificate is not None:
        _install(party, folder, certificate, authority, revocations)
    elif revocations is not None:
        files = locate_credentials(party, folder)
        listed = install_revocations(folder / REVOCATIONS, revocations, read_certificate(authority or files.authority))
        say(f"Wrote {folder / REVOCATIONS}, good until {show_time(listed.ends)}.")
    else:
        raise CallerError("give a certificate, or --revocations, or both")


@app.command()
def revoke(
    certificate: Annotated[
        Path | None, typer.Argument(metavar="[CERTIFICATE.pem]", help="One certificate that this authority signed.")
    ] = None,
    *,
    authority: AuthorityOption,
    role: Annotated[
        Role | None, typer.Option("--role", help="With --organisation: all certificates of a party.")
    ] = None,
    organisation: Annotated[str | None, typer.Option("--organisation", help="With --role.")] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option(
            "--known",
            help="A list that a party holds: what it has as revoked stays revoked. After this folder was restored from "
            "a backup; may be repeated.",
        ),
    ] = None,
    reason: Annotated[Reason, typer.Option("--reason", help="Stands in the list.")] = Reason.KEY_COMPROMISE,
    days: Annotated[int, typer.Option("--days", help="How long the list is good.")] = LIST_DAYS,
) -> None:
    """Sign a new list of revoked certificates, on the authority's machine; every party must then be given it.

    Their keys are refused for good, whatever the reason: the party makes a new one. With neither a certificate nor a
    party, the list stays as it is and is good for --days more.
    """
    opened = Authority.open(authority)
    if certificate is not None and role is None and organisation is None:
        chosen = [opened.require_issued(read_certificate(certificate))]
    elif certificate is None and role is not None and organisation is not None:
        party = _party(role, organisation)
        chosen = opened.issued_to(party)
        if not chosen:
            raise CallerError(f"the {party} has no certificate of this authority")
    elif certificate is None and role is None and organisation is None:
        chosen = []
    else:
        raise CallerError("give either CERTIFICATE.pem, or --role and --organisation, or neither to extend the list")
    chosen = opened.with_same_keys(chosen)
    lists = [RevocationList.read(one, opened.certificate) for one in known or ()]
    path = opened.revoke(chosen, reason, days=days, known=lists)
    for one in chosen:
        say(f"Revoked certificate {one.serial:x} of the {one.party}; its key is not signed again.")
    for left in _left_good(opened, chosen):
        say(f"Certificate {left.serial:x} of the {left.party} stays good: revoke it too if its key may be known.")
    say(f"Wrote {path}, good for {days} days. Next: give it to every party, who puts it in place with:")
    say(f"federation install --revocations {path.name} --role ROLE --organisation NAME --folder credentials")


def _left_good(authority: Authority, revoked: list[PartyCertificate]) -> list[PartyCertificate]:
    """Certificates of the same parties that are accepted still."""
    parties, revocations, now = {one.party for one in revoked}, authority.revocations(), datetime.now(UTC)
    return [
        one for one in authority.issued() if one.party in parties and one.ends > now and not revocations.refuses(one)
    ]


def _installing(party: Party, folder: Path, *, first: bool) -> str:
    """The command that puts in place what the authority sends back."""
    words = ["federation", "install", f"{party.role.value}.pem"]
    words += ["--authority", AUTHORITY_CERTIFICATE, "--revocations", REVOCATIONS] if first else []
    words += ["--role", party.role.value, "--organisation", party.organisation, "--folder", str(folder)]
    return join(words)


def _sign(authority: Path, path: Path, out: Path, *, days: int, yes: bool) -> None:
    opened, wanted = Authority.open(authority), read_request(path)
    opened.require_usable_key(wanted)
    earlier = _require_replaceable(out, opened, wanted.party)
    say(f"{path} asks for a certificate for the {wanted.party}, hosts: {', '.join(wanted.hosts) or 'none'}.")
    if wanted.renewal is not None:
        opened.require_renewal(wanted)
        say("The key of its current certificate vouches for it.")
    else:
        say(f"Fingerprint: {wanted.fingerprint}")
        if not yes:
            typer.confirm("Did the party read you this fingerprint? Sign?", abort=True, err=True)
    write = replace_file if earlier else write_new
    write(out, opened.sign(wanted, days=days, hosts=wanted.hosts), mode=0o644)
    sent = f"{authority / AUTHORITY_CERTIFICATE} and {authority / REVOCATIONS}"
    say(f"Wrote {out}, valid for {days} days. Next: send it, {sent} to the party.")


def _require_replaceable(out: Path, authority: Authority, party: Party) -> bool:
    """Whether an earlier certificate of the party stands at `out`, which a new one may replace.

    Raises ConfigurationError if anything else does: asked before anybody is telephoned.
    """
    if not out.exists():
        return False
    try:
        if authority.require_issued(read_certificate(out)).party == party:
            return True
    except EncryptedInferenceError:
        pass
    raise ConfigurationError(f"{out}: there already, and no certificate of the {party}; name another file with --out")


def _enroll_here(authority: Path, party: Party, folder: Path, *, days: int, hosts: list[str]) -> None:
    opened, files = Authority.open(authority), locate_credentials(party, folder)
    if files.authority.exists() and read_certificate(files.authority) != opened.certificate:
        raise ConfigurationError(f"{files.authority}: is another authority's certificate; choose another folder")
    path = create_request(party, folder, hosts=hosts)
    public = (authority / AUTHORITY_CERTIFICATE, authority / REVOCATIONS)
    _sign_here(opened, party, folder, path, *public, days=days)


def _sign_here(opened: Authority, party: Party, folder: Path, path: Path, *public: Path, days: int) -> None:
    """Sign the request at `path` and install the certificate. `public`: the authority's files, the first time."""
    wanted, signed = read_request(path), folder / f"{party.role.value}.signed.pem"
    write_new(signed, opened.sign(wanted, days=days, hosts=wanted.hosts), mode=0o644)
    _install(party, folder, signed, *public)
    signed.unlink()
    path.unlink()


def _install(
    party: Party, folder: Path, certificate: Path, authority: Path | None = None, revocations: Path | None = None
) -> None:
    installed = install_certificate(party, folder, certificate, authority=authority, revocations=revocations)
    files = locate_credentials(party, folder)
    say(f"{files.certificate} and {files.key} are in place for the {party}, until {show_time(installed.ends)}.")


def _party(role: Role, organisation: str) -> Party:
    try:
        return Party(role=role, organisation=organisation)
    except PeerViolation as error:
        raise CallerError(f"{error}; correct --organisation") from error


def main() -> None:
    run(app, name="federation")
