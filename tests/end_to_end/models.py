"""A small model folder, as a model owner would bring it, and radiographs to submit to it."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contract.model_card import AgeRange, InputSpecification, Modality, ModelCard, OutputPolicy, Task
from data_owner.answers import ClassAnswer
from data_owner.diagnosis import Diagnosis
from tests.imaging.samples import data_set, dicom_bytes

SIDE = 32
CLASSES = ("normal", "bacteria", "virus")
NAME = "tiny-chest"
PATIENT = "Canary^Patient"
INPUT = InputSpecification(
    modalities=(Modality.CR, Modality.DX),
    body_parts=("CHEST",),
    ages=AgeRange(youngest=1, oldest=5),
    height=SIDE,
    width=SIDE,
    mean=(0.5,),
    standard_deviation=(0.25,),
)


DITHER = 0.1
"""How far logits of a tiny model may lie from floating point or from another session's: rounding is random.

Twelve standard deviations of one answer, nine of the difference of two: 0.008 for the most sensitive of seven models.
"""


def tiny_weights(seed: int = 0, classes: int = len(CLASSES)) -> dict[str, NDArray[np.float32]]:
    """Two convolutions and a fully connected layer, He-scaled: activations stay near 1, logits differ by image."""
    generator = np.random.default_rng(seed)
    shapes = {"c1.weight": (4, 1, 3, 3), "c1.bias": (4,), "c2.weight": (6, 4, 3, 3), "c2.bias": (6,)}
    shapes |= {"fc.weight": (classes, 6), "fc.bias": (classes,)}
    return {
        name: (generator.normal(size=shape) * math.sqrt(2 / math.prod(shape[1:]))).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_tiny_model(
    folder: Path,
    *,
    name: str = NAME,
    version: str = "1.0.0",
    seed: int = 0,
    output_policy: OutputPolicy = OutputPolicy.LOGITS,
    softmax: bool = False,
    **card: Any,
) -> Path:
    """1 x 32 x 32 -> conv, ReLU, average pool, conv, ReLU, global average pool, fully connected -> the classes.

    `softmax`: in place of the second ReLU, over channels, and once more at the end, over classes. `card`: its fields; a
    multi-label model ends in Sigmoid, a binary one in one logit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task = card.get("task", Task.CLASSIFICATION)
    classes = 1 if task is Task.BINARY else len(card.get("classes", CLASSES))
    nodes = [
        helper.make_node("Conv", ["image", "c1.weight", "c1.bias"], ["c1"], name="c1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="r1"),
        helper.make_node("AveragePool", ["r1"], ["p1"], name="p1", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "c2.weight", "c2.bias"], ["c2"], name="c2", pads=[1, 1, 1, 1]),
        helper.make_node("Softmax", ["c2"], ["r2"], name="r2", axis=1)
        if softmax
        else helper.make_node("Relu", ["c2"], ["r2"], name="r2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["gap"], name="gap"),
        helper.make_node("Flatten", ["gap"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1),
    ]
    if softmax or task is Task.MULTI_LABEL:
        nodes[-1].output[0] = "scores"
        nodes.append(helper.make_node("Softmax" if softmax else "Sigmoid", ["scores"], ["logits"], name="end"))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(value, key) for key, value in tiny_weights(seed, classes).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "model.onnx"
    onnx.save(model, path)
    fields: dict[str, Any] = {
        "name": name,
        "version": version,
        "title": "Tiny",
        "intended_use": "tests",
        "input": INPUT,
        "classes": CLASSES,
        "output_policy": output_policy,
        "training": "random weights",
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (folder / "card.json").write_text(ModelCard(**fields | card).model_dump_json())
    return folder


def class_answer(diagnosis: Diagnosis) -> ClassAnswer:
    """What a model says that names one of its classes."""
    assert isinstance(diagnosis.diagnosis, ClassAnswer)
    return diagnosis.diagnosis


def radiograph(path: Path, *, seed: int = 0, **tags: object) -> Path:
    """A small chest radiograph of noise, as 12-bit DICOM, with a patient's name in it."""
    stored = np.random.default_rng(seed).integers(0, 4096, (48, 40), dtype=np.uint16)
    path.write_bytes(dicom_bytes(data_set(stored, bits=12, changes={"PatientName": PATIENT} | tags)))
    return path
