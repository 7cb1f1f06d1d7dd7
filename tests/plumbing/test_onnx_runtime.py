"""onnxruntime runs without its telemetry, everywhere."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SESSION = """
import sys
from pathlib import Path
from onnx import TensorProto, helper

node = helper.make_node("Identity", ["a"], ["b"])
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
graph = helper.make_graph([node], "g", values[:1], values[1:])
content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
{load}
runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
"""


def traces(folder: Path, load: str) -> list[str]:
    """Files that a process leaves in its home and temporary folders after it opened a session."""
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    places = dict.fromkeys(("TMPDIR", "HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(folder))
    subprocess.run(
        [sys.executable, "-c", SESSION.format(load=load)], cwd=ROOT, env=kept | places, check=True, timeout=60
    )
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_nothing_is_written_and_no_identifier_is_made(tmp_path: Path) -> None:
    load = "from plumbing.onnx_runtime import load_onnxruntime; runtime = load_onnxruntime()"
    assert traces(tmp_path / "ours", load) == []


@pytest.mark.slow
def test_the_check_would_notice(tmp_path: Path) -> None:
    assert traces(tmp_path / "theirs", "import onnxruntime as runtime") != []


def imports_onnxruntime(path: Path) -> bool:
    source = path.read_text()
    if "onnxruntime" not in source:  # most files: parsing all of them takes seconds
        return False
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name == "onnxruntime" or name.startswith("onnxruntime.") for name in names):
            return True
    return False


def test_there_is_one_way_to_import_it() -> None:
    rooms = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]
    found = [path for room in rooms for path in room.rglob("*.py") if imports_onnxruntime(path)]
    # The latter imports the names of its errors, after it has loaded the module the one way.
    assert sorted(found) == [ROOT / "model_owner" / "in_clear.py", ROOT / "plumbing" / "onnx_runtime.py"]
