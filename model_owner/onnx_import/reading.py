"""Read an ONNX file that may be hostile: bounded, checked, self-contained in its folder.

Nothing in the file is run. External data may only lie in files next to model.onnx, or in folders below it.
"""

import hashlib
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from contract.errors import ModelFileError
from secure_computation.network import MAX_WEIGHT_ELEMENTS

if TYPE_CHECKING:
    import onnx

MAX_FILE_BYTES = 1 << 30
MAX_NODES = 1 << 16
OLDEST_OPSET = 11
NEWEST_OPSET = 25
_OWN_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """A checked ONNX model with all its tensors in memory (of the model owner)."""

    proto: "onnx.ModelProto"
    opset: int
    files: tuple[PurePosixPath, ...]
    """model.onnx first, then the files with external data, relative to the folder."""
    sha256: str

    @property
    def elements(self) -> int:
        """Of all tensors in the files."""
        return count_elements(self.graph)

    @property
    def graph(self) -> "onnx.GraphProto":
        return self.proto.graph

    def __repr__(self) -> str:
        return f"<OnnxModel: {len(self.graph.node)} nodes, values withheld>"


def read_onnx(path: Path) -> OnnxModel:
    """Read and check `path`. Raises ModelFileError that says what is wrong with the file."""
    import onnx
    from google.protobuf.message import DecodeError

    data = _read_bounded(path)
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelFileError(f"{path.name} cannot be parsed as ONNX: export the model again") from error
    opset = _check_header(model)
    external = _inline_external_data(model, path.parent)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:  # ValueError: text that is not UTF-8
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(f"{path.name} is not valid ONNX ({reason}): export the model again") from error
    files = (PurePosixPath(path.name), *sorted(external))
    return OnnxModel(proto=model, opset=opset, files=files, sha256=_hash_files(path.parent, files))


def _read_bounded(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file() or not 0 < size <= MAX_FILE_BYTES:
            raise ModelFileError(f"{path.name} must be a file of 1 to {MAX_FILE_BYTES} bytes: give an ONNX model")
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}): give the path of an ONNX model") from error


def _hash_files(folder: Path, files: tuple[PurePosixPath, ...]) -> str:
    """SHA-256 of model.onnx; with external data, of the listing that `sha256sum model.onnx DATA...` prints."""
    digests = [hashlib.sha256(_read_bounded(folder / file)).hexdigest() for file in files]
    if len(files) == 1:
        return digests[0]
    listing = "".join(f"{digest}  {file}\n" for digest, file in zip(digests, files, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def explain_hash(files: tuple[PurePosixPath, ...]) -> str:
    """In words, how a card's model_sha256 is made of a model's files, and the command that makes it."""
    names = " ".join(shlex.quote(str(file)) for file in files)
    if len(files) == 1:
        return f"which `sha256sum {names}` prints"
    return (
        f"which `sha256sum {names} | sha256sum` prints in the model's folder: it covers the model and its external "
        "data, the model first, the data in the order of their names"
    )


def _check_header(model: "onnx.ModelProto") -> int:
    graph = model.graph
    foreign = {node.domain for node in graph.node} - set(_OWN_DOMAINS)
    if foreign or model.functions:
        raise ModelFileError(
            "the model uses operators outside the standard ONNX domain: export it with standard operators only"
        )
    if graph.sparse_initializer or len(graph.node) > MAX_NODES:
        raise ModelFileError(
            f"the model has sparse tensors or more than {MAX_NODES} nodes: export a dense, smaller one"
        )
    if not all(isinstance(text, str) for text in _list_texts(graph)):  # protobuf hands out bytes that are not UTF-8
        raise ModelFileError("a name in the model is not text: export the model again")
    versions = [entry.version for entry in model.opset_import if entry.domain in _OWN_DOMAINS]
    if len(versions) != 1 or not OLDEST_OPSET <= versions[0] <= NEWEST_OPSET:
        raise ModelFileError(
            f"the model's opset is {versions}: export it with one opset from {OLDEST_OPSET} to {NEWEST_OPSET}"
        )
    elements = count_elements(graph)
    if elements > MAX_WEIGHT_ELEMENTS or any(size < 0 for tensor in _list_tensors(graph) for size in tensor.dims):
        raise ModelFileError(f"the model declares {elements} weights, more than the {MAX_WEIGHT_ELEMENTS} supported")
    return int(versions[0])


def count_elements(graph: "onnx.GraphProto") -> int:
    """Elements of all tensors that a graph holds."""
    return sum(math.prod(tensor.dims) for tensor in _list_tensors(graph))


def _list_texts(graph: "onnx.GraphProto") -> Iterator[object]:
    yield from (entry.name for entry in (*graph.initializer, *graph.input, *graph.output))
    for node in graph.node:
        yield from (node.op_type, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for tensor in _list_tensors(graph):
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))


def _list_tensors(graph: "onnx.GraphProto") -> Iterator["onnx.TensorProto"]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _inline_external_data(model: "onnx.ModelProto", folder: Path) -> set[PurePosixPath]:
    """Bring external tensors into memory; return the files they came from, relative to `folder`."""
    import onnx

    files: set[PurePosixPath] = set()
    for tensor in _list_tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            settings = {entry.key: entry.value for entry in tensor.external_data}
            file = _require_inside(folder, settings.get("location", ""))
            tensor.raw_data = _read_external(tensor, folder / file, settings)
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
            files.add(file)
    return files


def _require_inside(folder: Path, location: str) -> PurePosixPath:
    file = PurePosixPath(location)
    harmless = location and "\\" not in location and not file.is_absolute() and ".." not in file.parts
    resolved = (folder / file).resolve() if harmless and location.isprintable() else None
    if resolved is None or not resolved.is_relative_to(folder.resolve()):
        raise ModelFileError("the model's external data lies outside its folder: keep all files in the model's folder")
    return file


def _read_external(tensor: "onnx.TensorProto", path: Path, settings: dict[str, str]) -> bytes:
    import onnx

    try:
        item_bytes = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        expected = math.prod(tensor.dims) * item_bytes
        offset = int(settings.get("offset", "0"))
        if not path.is_file():
            raise ModelFileError(
                f"'{path.name}' is missing, which holds weights of the model: copy it into the same folder as the model"
            )
        if int(settings.get("length", str(expected))) != expected or offset < 0:
            raise ModelFileError("the model's external data does not fit its tensors: export the model again")
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(expected)
    except (OSError, ValueError, KeyError) as error:
        raise ModelFileError(f"external data in '{path.name}' cannot be read: export the model again") from error
    if len(data) != expected:
        raise ModelFileError(f"external data in '{path.name}' is cut off: copy the model's folder again")
    return data
