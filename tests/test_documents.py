"""Documents keep their promises: commands exist, links lead somewhere, samples load, figures are measured ones."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import typer.main
from click import Group

from benchmarks import figures
from contract.model_card import read_card
from plumbing.settings import PartySettings, load_settings
from tests.typed_commands import commands_in_blocks, commands_in_sentences, commands_in_source, fault

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "scripts").glob("*.md")])
ENTRY_POINTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

SETTINGS = {
    "inference-service": "inference_service.settings:ServiceSettings",
    "crypto-provider": "crypto_provider.settings:CryptoProviderSettings",
    "model-owner": "model_owner.settings:ModelOwnerSettings",
    "data-owner": "data_owner.settings:DataOwnerSettings",
    "federated-coordinator": "federated_learning.rounds.settings:CoordinatorSettings",
    "federated-hospital": "federated_learning.rounds.settings:HospitalSettings",
    "federated-hospital-private": "federated_learning.rounds.settings:HospitalSettings",
}
SAMPLES = sorted((ROOT / "docs" / "samples").glob("*.toml"))

FIGURE = re.compile(r"\b\d[\d,.]*\s?(s|ms|seconds?|minutes?|MB|GB|MiB/s|MB/s|%)(?![\w-])")
"""A time, a volume or a share."""


def subcommands(command: str) -> set[str]:
    module, _ = ENTRY_POINTS[command].split(":")
    group = typer.main.get_command(importlib.import_module(module).app)
    return set(group.commands) if isinstance(group, Group) else set()


def commands_in(text: str) -> set[tuple[str, str]]:
    """(command, subcommand) pairs in code: in blocks, and in table cells such as `federation init`, `request`."""
    found = set()
    for line in text.splitlines():
        cell = line.split("|")[1] if line.startswith("|") else line
        for command in ENTRY_POINTS:
            for match in re.finditer(rf"(?:^|`|\| ){command} ([a-z][a-z-]+)", cell):
                found.add((command, match.group(1)))
                if line.startswith("|"):
                    found |= {(command, other) for other in re.findall(r", `([a-z][a-z-]+)`", cell)}
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document: Path) -> None:
    missing = [
        f"{command} {sub}"
        for command, sub in sorted(commands_in(document.read_text()))
        if sub not in subcommands(command)
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_scripts_exist(document: Path) -> None:
    scripts = set(re.findall(r"\bscripts/[a-z_]+(?:\.[a-z]+)?", document.read_text()))
    assert [script for script in sorted(scripts) if not (ROOT / script).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_code_that_is_named_exists(document: Path) -> None:
    named = re.findall(
        r"`((?:tests|contract|imaging|secure_computation|benchmarks|docs)/[\w/.]+)`", document.read_text()
    )
    ours = [name for name in named if not name.startswith("benchmarks/results")]
    assert [name for name in ours if not (ROOT / name).exists()] == []


def test_the_first_page_leads_to_every_other() -> None:
    first = (ROOT / "docs" / "README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(re.findall(r"\]\(([\w-]+\.md)", first))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_sample_settings_load(sample: Path) -> None:
    module, name = SETTINGS[sample.stem].split(":")
    kind = getattr(importlib.import_module(module), name)
    assert issubclass(kind, PartySettings)
    load_settings(kind, sample)


def test_every_party_has_a_sample() -> None:
    assert {sample.stem for sample in SAMPLES} == set(SETTINGS)


MORE_DOCUMENTS = sorted([*(ROOT / "benchmarks").glob("*.md"), *(ROOT / "models").rglob("*.md")])
ROOMS = sorted({path.parent for path in ROOT.glob("*/__init__.py")} - {ROOT / "tests"})


@pytest.mark.parametrize("document", [*DOCUMENTS, *MORE_DOCUMENTS], ids=lambda path: path.name)
def test_commands_can_be_typed_as_they_stand(document: Path) -> None:
    """Against the options of the real commands. The changelog's sentences tell of commands as they were."""
    text = document.read_text()
    typed = [*commands_in_blocks(text), *(() if document.name == "CHANGELOG.md" else commands_in_sentences(text))]
    assert [f"{one}: {wrong}" for one in typed if (wrong := fault(one)) is not None] == []


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: path.name)
def test_commands_that_are_printed_can_be_typed(room: Path) -> None:
    typed = [one for module in sorted(room.rglob("*.py")) for one in commands_in_source(module.read_text())]
    assert [f"{one}: {wrong}" for one in typed if (wrong := fault(one)) is not None] == []


def test_a_command_that_cannot_be_typed_is_found() -> None:
    def faults(text: str) -> list[str | None]:
        return [fault(one) for one in (*commands_in_blocks(text), *commands_in_sentences(text))]

    assert faults("```sh\nfederation install --revocations\n```") == ["Option '--revocations' requires an argument."]
    assert faults("```sh\nsudo federation fly | less\n```") == ["there is no fly"]
    assert faults("    data-owner inspect a.dcm b.dcm  # two files\n") == ["b.dcm is too much"]
    assert faults("    federation request --role x \\\n        --organisation y\n") == ["--folder is missing"]
    assert faults("`data-owner --version`, `data-owner --fly`") == [None, "there is no --fly"]
    assert faults("`data-owner diagnose --btach 2`") == ["No such option '--btach'. Did you mean '--batch'?"]
    assert faults("see `data-owner diagnose FILE ...` and `scripts/demo --ui`, data-owner fly") == [None, None]
    source = 'say(f"now: federation request --role {role}, then")\n"""federation fly --far"""\n'
    assert [(str(one), fault(one)) for one in commands_in_source(source)] == [
        ("federation request --role VALUE", "--organisation is missing")
    ]


def test_clinicians_make_every_file_that_their_settings_name() -> None:
    sample = (ROOT / "docs" / "samples" / "data-owner.toml").read_text()
    files = set(re.findall(r'"credentials/([^"]+)"', sample))
    guide = (ROOT / "docs" / "clinician.md").read_text()
    made = {"data-owner.key"}  # by federation request
    assert {name for name in files if name not in guide} <= made


def test_clinicians_find_every_message_of_the_page() -> None:
    from data_owner.ui import words

    script = "".join(path.read_text() for path in (ROOT / "data_owner" / "ui" / "static").glob("*.js"))
    titles = {title for title, _ in words._WORDS.values()} | {words.describe_defect(ValueError()).title}
    text = (ROOT / "docs" / "clinician.md").read_text()
    assert sorted(title for title in titles if f"| {title} |" not in text) == []
    told = set(re.findall(r"(?m)^\| ([A-Z][^|]+) \| [a-z]", text.partition("the page says")[2]))
    assert sorted(title for title in told - titles if title != "Not open here" and title not in script) == []


def test_clinicians_read_the_threshold_of_the_shipped_card() -> None:
    card = read_card(ROOT / "models" / "pediatric-pneumonia-resnet18" / "card.json")
    assert f"the threshold is {card.uncertain_below:g}:" in (ROOT / "docs" / "clinician.md").read_text()


def test_readme_repeats_no_figure_by_hand() -> None:
    by_hand = (ROOT / "README.md").read_text().replace(figures.read_shown(), "")
    found = [match.group() for match in FIGURE.finditer(by_hand)]
    assert [figure for figure in found if figure != "2 GB"] == []  # disk needed, not a measurement


def test_readme_shows_the_newest_results() -> None:
    assert figures.read_shown() == figures.render()


def test_the_checkers_see_what_is_wrong() -> None:
    assert FIGURE.search("it takes 1.5 s on a laptop")
    assert FIGURE.search("0.81 or 81 % accuracy")
    assert not FIGURE.search("Python 3.11 or 3.12 with 4 parties, TLS 1.3 since 2018")
    assert commands_in("| `federation init`, `enroll` | x |") == {("federation", "init"), ("federation", "enroll")}
    assert commands_in("federation fly --folder x") == {("federation", "fly")}
    assert "fly" not in subcommands("federation")
