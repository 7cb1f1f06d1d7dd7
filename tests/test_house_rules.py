"""Rules that a reviewer would otherwise have to remember, read from the syntax tree of every module."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "contract",
    "authority",
    "plumbing",
    "bookkeeping",
    "imaging",
    "secure_computation",
    "inference_service",
    "data_owner",
    "model_owner",
    "crypto_provider",
    "federated_learning",
    "encrypted_inference",
    "benchmarks",
    "demonstration",
)
SECRET_ROOMS = (
    "secure_computation",
    "crypto_provider",
    "data_owner",
    "model_owner",
    "inference_service",
    "contract",
    "authority",
    "plumbing",
    "bookkeeping",
    "encrypted_inference",
    "federated_learning/secure_aggregation",
    "federated_learning/privacy",
)
"""Where every random number may be a key, a mask or a share."""

RUNS_CODE_ON_LOAD = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
WEAK_MODULES = ("random", "numpy.random")
WEAK_TORCH = (
    *("Generator", "default_generator", "manual_seed", "seed", "random", "bernoulli", "normal", "poisson"),
    *("rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "multinomial"),
)
WEAK_METHODS = ("random_", "normal_", "uniform_", "bernoulli_", "exponential_", "geometric_", "cauchy_", "log_normal_")

FOR_FILES_ALONE = {
    *(f"os.{name}" for name in ("replace", "rename", "renames", "link", "chmod", "fchmod", "mkfifo", "mknod")),
    *(f"os.{name}" for name in ("O_CREAT", "O_EXCL", "O_TRUNC", "O_TMPFILE")),
    *(f"tempfile.{name}" for name in ("mkstemp", "NamedTemporaryFile")),
    *(f"shutil.{name}" for name in ("move", "copy", "copy2", "copyfile", "copytree")),
}
ELSEWHERE = ("contract/files.py", "benchmarks/peers/")
"""Where they may stand. Peers run in environments of their own, without our rooms."""

PUBLIC_RANDOMNESS = {
    # Synthetic sample images of `model-owner check`: public, and the same in every run on purpose.
    "model_owner/checking.py": "np.random.default_rng(RANDOM_SEED)",
    # Dithers to measure an error with, in clear, the same at every import on purpose.
    "model_owner/choosing_precision.py": "reference.draw_dithers(np.random.default_rng(_SEED))",
    "model_owner/references.py": "reference.draw_dithers(np.random.default_rng(_SEED))",
    "secure_computation/engines/masked/plan/reference.py": "def draw_dithers(generator: np.random.Generator)",
}
"""Lines that may use a fast generator, by what stands in them."""

MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 600


def names_of(tree: ast.AST) -> dict[str, str]:
    """What local names stand for: `import numpy as np` makes np mean numpy."""
    meanings = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                meanings[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                meanings[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return meanings


@cache
def parse(source: str) -> ast.Module:
    return ast.parse(source)


@cache
def mentioned(tree: ast.AST) -> tuple[tuple[ast.expr, str], ...]:
    """Every name or dotted attribute with its full meaning, say `numpy.random.default_rng`."""
    meanings = names_of(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            head, _, tail = dotted(node).partition(".")
            found.append((node, ".".join(part for part in (meanings.get(head, head), tail) if part)))
    return tuple(found)


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    return repr(node.value) if isinstance(node, ast.Constant) else "()"


def imports_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def loads_that_run_code(source: str) -> list[int]:
    """Lines that import a serialiser which runs code on load, or load an array or checkpoint without refusing it."""
    tree = parse(source)
    names = [name for node, name in mentioned(tree) if within(name, "pickle") and isinstance(node, ast.Attribute)]
    only_catches_its_error = bool(names) and set(names) == {"pickle.UnpicklingError"}  # torch.load raises it
    lines = [
        line
        for line, name in imports_of(tree)
        if any(within(name, bad) for bad in RUNS_CODE_ON_LOAD) and not (name == "pickle" and only_catches_its_error)
    ]
    meanings = {id(node): name for node, name in mentioned(tree)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = meanings.get(id(node.func), "")
        options = {option.arg: dotted(option.value) for option in node.keywords}
        if called == "numpy.load" and options.get("allow_pickle") != "False":
            lines.append(node.lineno)
        if called == "torch.load" and options.get("weights_only") != "True":
            lines.append(node.lineno)
        if options.get("allow_pickle") == "True" or called == "torch.jit.load":
            lines.append(node.lineno)
    return lines


def torch_files(source: str) -> list[int]:
    """Lines that read or write torch's own files, which only training keeps (its checkpoints)."""
    return [node.lineno for node, name in mentioned(parse(source)) if name in {"torch.load", "torch.save"}]


def weak_randomness(source: str) -> list[int]:
    """Lines that touch a generator which is not cryptographic."""
    tree = parse(source)
    lines = [line for line, name in imports_of(tree) if any(within(name, weak) for weak in WEAK_MODULES)]
    for node, name in mentioned(tree):
        library, _, rest = name.partition(".")
        weak = (
            any(within(name, module) for module in WEAK_MODULES)
            or (library == "torch" and rest.split(".")[0] in WEAK_TORCH)
            or (isinstance(node, ast.Attribute) and node.attr in WEAK_METHODS)
        )
        if weak:
            lines.append(node.lineno)
    return lines


def writes_past_files(source: str) -> list[int]:
    """Lines that make or put in place a file by themselves, as only `contract.files` may."""
    tree = parse(source)
    lines = [node.lineno for node, name in mentioned(tree) if name in FOR_FILES_ALONE]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        exclusive = any(
            isinstance(one, ast.Constant) and one.value in {"x", "xb", "xt", "x+", "xb+"}
            for one in (*node.args[:2], *(option.value for option in node.keywords if option.arg == "mode"))
        )
        if (
            method in {"touch", "chmod", "rename", "hardlink_to"}
            or (method == "replace" and len(node.args) == 1 and not node.keywords)  # a text's has two
            or ((method == "open" or dotted(node.func) == "open") and exclusive)
        ):
            lines.append(node.lineno)
    return lines


def too_long(source: str) -> list[str]:
    found = []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                found.append(f"{node.name} has {lines} lines")
    lines = source.count("\n")
    return [*found, f"the module has {lines} lines"] if lines > MAX_MODULE_LINES else found


def sources(*rooms: str) -> Iterator[tuple[str, str]]:
    for room in rooms:
        for file in sorted((ROOT / room).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), file.read_text()


def test_nothing_that_is_loaded_runs_code() -> None:
    found = [f"{path}:{line}" for path, text in sources(*ROOMS) for line in loads_that_run_code(text)]
    assert found == []


def test_serving_keeps_no_torch_files() -> None:
    found = [f"{path}:{line}" for path, text in sources(*SECRET_ROOMS, "imaging") for line in torch_files(text)]
    assert found == []
    assert torch_files("import torch\ntorch.save(x, f)")


def test_randomness_near_secrets_is_cryptographic() -> None:
    found = {
        f"{path}:{line}"
        for path, text in sources(*SECRET_ROOMS)
        for line in weak_randomness(text)
        if PUBLIC_RANDOMNESS.get(path, "no such words") not in text.splitlines()[line - 1]
    }
    assert found == set()


def test_files_are_put_in_place_by_one_module() -> None:
    found = [f"{path}:{line}" for path, text in sources(*ROOMS) for line in writes_past_files(text)]
    assert [one for one in found if not one.startswith(ELSEWHERE)] == []
    assert any(one.startswith(ELSEWHERE[0]) for one in found)


def test_functions_and_modules_stay_readable() -> None:
    assert [f"{path}: {what}" for path, text in sources(*ROOMS, "tests") for what in too_long(text)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import pickle\ntry: pickle.loads(x)\nexcept pickle.UnpicklingError: pass",
        "def f():\n    import marshal",
        "import numpy as np\nnp.load('a.npy')",
        "import numpy as np\nnp.load('a.npy', allow_pickle=True)",
        "from numpy import load\nload('a.npy')",
        "import torch\ntorch.load('a.pt')",
        "import torch\ntorch.load('a.pt', weights_only=False)",
    ],
)
def test_the_checker_sees_a_load_that_runs_code(source: str) -> None:
    assert loads_that_run_code(source)


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nnp.load('a.npy', allow_pickle=False)",
        "import json\njson.load(f)",
        "import torch\ntorch.tensor(1)",
    ],
)
def test_the_checker_lets_safe_loads_pass(source: str) -> None:
    assert loads_that_run_code(source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "from random import randint",
        "import numpy as np\nnp.random.default_rng()",
        "from numpy.random import default_rng",
        "import torch\ntorch.randint(0, 2, (3,))",
        "import torch\ntorch.empty(3).random_()",
        "import torch as t\nt.Generator()",
        "from torch import rand\nrand(3)",
        "import torch\ntorch.manual_seed(1)",
    ],
)
def test_the_checker_sees_weak_randomness(source: str) -> None:
    assert weak_randomness(source)


@pytest.mark.parametrize(
    "source", ["import secrets\nsecrets.token_bytes(32)", "import os\nos.urandom(3)", "randomness.stream(seed)"]
)
def test_the_checker_lets_cryptographic_randomness_pass(source: str) -> None:
    assert weak_randomness(source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.replace(a, b)",
        "from os import rename\nrename(a, b)",
        "import os\nos.open(path, os.O_WRONLY | os.O_CREAT, 0o600)",
        "partial.replace(path)",
        "partial.rename(path)",
        "path.touch(mode=0o600)",
        "path.open('x')",
        "open(path, mode='xb')",
        "import tempfile\ntempfile.mkstemp()",
    ],
)
def test_the_checker_sees_a_file_that_is_put_in_place_elsewhere(source: str) -> None:
    assert writes_past_files(source)


@pytest.mark.parametrize(
    "source",
    [
        "text.replace('a', 'b')",
        "moment.replace(year=2026)",
        "from contract.files import replace\nreplace(path, content)",
        "path.open('wb')",
        "import os\nos.open(folder, os.O_RDONLY)",
        "axes.grid(visible=False, axis='x')",
    ],
)
def test_the_checker_lets_other_files_pass(source: str) -> None:
    assert writes_past_files(source) == []


def test_the_checker_sees_length() -> None:
    assert too_long("def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES)
    assert too_long("x = 1\n" * (MAX_MODULE_LINES + 1))
    assert too_long("def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)) == []
