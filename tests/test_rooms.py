"""Who may import whom: the rule of CONTRIBUTING.md ("Rooms"), read from the syntax tree; and no circles of modules.

Imports inside functions and for types only count too, in both rules. Tests, benchmarks and the demonstration may import
anything, but CrypTen only through the bridge.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

CLIENT = "inference_service.client"
COMMON = ("contract", "plumbing", "authority")
PARTY = (*COMMON, "bookkeeping", "secure_computation", CLIENT)
ALLOWED: dict[str, tuple[str, ...]] = {
    "contract": (),
    "plumbing": ("contract",),
    "authority": ("contract", "plumbing"),
    "bookkeeping": ("contract", "plumbing"),
    "imaging": ("contract", "plumbing.output"),
    "secure_computation": COMMON,
    "inference_service": (*COMMON, "bookkeeping"),
    "crypto_provider": PARTY,
    "data_owner": (*PARTY, "imaging"),
    "model_owner": (*PARTY, "imaging"),
    "encrypted_inference": (*PARTY, "data_owner", "model_owner", "federated_learning.export"),
    "federated_learning": (*COMMON, "imaging", "secure_computation.randomness"),
}
OPEN = ("benchmarks", "demonstration", "tests", "scripts")
"""May import any room; no room may import them."""

MASKED = "secure_computation.engines.masked"
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "secure_computation/kernels/": ("secure_computation.protocols", "secure_computation.engines"),
    "secure_computation/protocols/": ("secure_computation.engines",),
    "secure_computation/engines/masked/plan/": (f"{MASKED}.lowering", f"{MASKED}.session"),
    "secure_computation/engines/masked/lowering/": (f"{MASKED}.session",),
    "secure_computation/engines/masked/session/": (f"{MASKED}.lowering",),
}
"""Within a room: what the files of a folder may not import. Lowering and session know the plan, not each other."""

CRYPTEN_ALLOWED = ("secure_computation/crypten_bridge/", "benchmarks/peers/stock_crypten.py")
CRYPTEN_ALLOWED_IN_TESTS = ("tests/secure_computation/crypten_bridge/",)

TWO_HALVES = {
    # The second half loads torch and CrypTen, which the data owner does without for most plans: it is imported late.
    "secure_computation.engines.masked.session.activation",
    "secure_computation.engines.masked.session.activation_on_crypten",
}
"""The one circle that is there on purpose."""


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a module imports; `from a import b` yields `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and name_of(node.func) in {"import_module", "__import__"}:
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value


def name_of(called: ast.expr) -> str:
    """The last part of `importlib.import_module`, say."""
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def violations(path: str, source: str) -> list[str]:
    """What a file at `path` (relative to the root, with slashes) may not import."""
    room = path.split("/", maxsplit=1)[0]
    package = ".".join(path.removesuffix(".py").removesuffix("/__init__").split("/"))
    if not path.endswith("__init__.py"):
        package = package.rpartition(".")[0]
    found = []
    for line, name in imported(ast.parse(source, filename=path), package):
        if within(name, "crypten") and not path.startswith((*CRYPTEN_ALLOWED, *CRYPTEN_ALLOWED_IN_TESTS)):
            found.append(f"{path}:{line} imports {name}: CrypTen is reached through secure_computation/crypten_bridge")
        for folder, others in FORBIDDEN.items():
            if path.startswith(folder) and any(within(name, other) for other in others):
                found.append(f"{path}:{line} imports {name}: {folder} may not")
        top = name.split(".", maxsplit=1)[0]
        if room in OPEN or top == room or top not in {*ALLOWED, *OPEN}:
            continue
        if not any(within(name, allowed) for allowed in ALLOWED[room]):
            found.append(f"{path}:{line} imports {name}: {room} may import {', '.join(ALLOWED[room]) or 'no room'}")
    return found


def python_files() -> list[str]:
    return sorted(
        file.relative_to(ROOT).as_posix() for room in (*ALLOWED, *OPEN) for file in (ROOT / room).rglob("*.py")
    )


@pytest.mark.parametrize("room", [*ALLOWED, *OPEN])
def test_rooms_import_only_what_they_may(room: str) -> None:
    files = [path for path in python_files() if path.startswith(f"{room}/")]
    assert files or room == "scripts"
    assert [line for path in files for line in violations(path, (ROOT / path).read_text())] == []


def test_every_package_is_a_room() -> None:
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert packages == {*ALLOWED, "benchmarks", "demonstration", "tests"}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("contract/a.py", "import imaging"),
        ("secure_computation/kernels/a.py", "from secure_computation.protocols import relu"),
        ("secure_computation/protocols/a.py", "from secure_computation.engines.masked.plan import steps"),
        ("secure_computation/engines/masked/plan/a.py", "from secure_computation.engines.masked import session"),
        ("secure_computation/engines/masked/plan/a.py", "from ..lowering.drafts import Draft"),
        ("secure_computation/engines/masked/lowering/a.py", "import secure_computation.engines.masked.session.walk"),
        (
            "secure_computation/engines/masked/session/a.py",
            "from secure_computation.engines.masked.lowering import lower",
        ),
        ("contract/a.py", "from authority.certificates import read_certificate"),
        ("contract/a.py", "from plumbing import settings"),
        ("plumbing/a.py", "import authority.signing"),
        ("authority/a.py", "from bookkeeping import audit_log"),
        ("secure_computation/a.py", "import bookkeeping"),
        ("imaging/a.py", "from plumbing.settings import PartySettings"),
        ("contract/a.py", "def f():\n    from secure_computation.wire import Frame"),
        ("contract/a.py", "import importlib\nimportlib.import_module('model_owner.server')"),
        ("imaging/a.py", "from data_owner import result"),
        ("secure_computation/a.py", "import inference_service.client"),
        ("secure_computation/a.py", "import tests"),
        ("data_owner/a.py", "from demonstration import deployment"),
        ("inference_service/a.py", "from secure_computation import network"),
        ("crypto_provider/a.py", "import imaging"),
        ("data_owner/a.py", "from inference_service import session_states"),
        ("data_owner/a.py", "from inference_service.storage import Store"),
        ("data_owner/a.py", "import model_owner"),
        ("model_owner/a.py", "if True:\n    import federated_learning.in_process"),
        ("federated_learning/a.py", "from secure_computation import wire"),
        ("federated_learning/a.py", "import secure_computation"),
        ("secure_computation/engines/crypten/a.py", "import crypten"),
        ("secure_computation/engines/crypten/a.py", "from crypten.mpc import MPCTensor"),
        ("benchmarks/a.py", "import crypten.mpc"),
        ("tests/data_owner/a.py", "import crypten"),
    ],
)
def test_the_checker_sees_a_violation(path: str, source: str) -> None:
    assert violations(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("contract/a.py", "import json\nfrom contract.errors import CallerError"),
        ("authority/a.py", "from plumbing.output import printable"),
        ("imaging/a.py", "from plumbing.output import printable"),
        ("secure_computation/channel/a.py", "from . import stream\nfrom ..wire import Frame"),
        ("data_owner/a.py", "from inference_service.client import Client\nimport imaging.dicom"),
        ("data_owner/a.py", "from inference_service import client"),
        ("secure_computation/engines/masked/session/a.py", "from secure_computation.engines.masked.plan import steps"),
        ("secure_computation/engines/masked/lowering/a.py", "from ..plan.steps import Step"),
        ("federated_learning/a.py", "from secure_computation.randomness import stream"),
        ("federated_learning/a.py", "from secure_computation import randomness"),
        ("secure_computation/crypten_bridge/a.py", "import crypten"),
        ("benchmarks/peers/stock_crypten.py", "import crypten"),
        ("tests/a.py", "import data_owner, model_owner"),
    ],
)
def test_the_checker_lets_allowed_imports_pass(path: str, source: str) -> None:
    assert violations(path, source) == []


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Modules that import each other, directly or through others; each module is in one set at most.

    `imports`: by module, what it imports of the others.
    """
    reached: dict[str, set[str]] = {}
    for module, direct in imports.items():
        reached[module], left = set(), list(direct)
        while left:
            if (one := left.pop()) not in reached[module]:
                reached[module].add(one)
                left += imports[one]
    together = {frozenset({other for other in reached[one] if one in reached[other]}) for one in imports}
    return [set(modules) for modules in together if modules]


def imports_of_modules() -> dict[str, set[str]]:
    """What each module of the product imports of the product's other modules."""
    modules = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
        for path in python_files()
        if not path.startswith("tests/")
    }
    found = {}
    for module, path in modules.items():
        package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
        names = [name for _, name in imported(ast.parse((ROOT / path).read_text()), package)]
        found[module] = {name if name in modules else name.rpartition(".")[0] for name in names} & modules.keys()
        found[module].discard(module)
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert [found for found in circles(imports_of_modules()) if found != TWO_HALVES] == []


def test_the_checker_sees_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
