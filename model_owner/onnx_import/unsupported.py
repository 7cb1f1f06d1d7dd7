"""What to do instead of an operator that is not computed under encryption."""

from types import MappingProxyType
from typing import Final

from contract.errors import ModelFileError
from model_owner.onnx_import.builder import Node

_NORMALISES = "it divides by a spread that it measures on each image, which is not computed under encryption"
_BATCH_NORM = "train the model with BatchNorm instead, whose statistics are constants after training"

_GROUPS: Final = (
    (
        "InstanceNormalization GroupNormalization LayerNormalization RMSNormalization LpNormalization",
        _NORMALISES,
        f"GroupNorm, InstanceNorm and LayerNorm are of this kind: {_BATCH_NORM}",
    ),
    ("MeanVarianceNormalization LRN", _NORMALISES, _BATCH_NORM),
    (
        "Less LessOrEqual Greater GreaterOrEqual Equal Where NonZero",
        "values that depend on the image are not compared under encryption",
        (
            "leave out what follows the logits; a torchxrayvision model is exported without its op_threshs "
            "(model.op_threshs = None, model.apply_sigmoid = False)"
        ),
    ),
    (
        "ScatterND GatherND GatherElements ScatterElements",
        "it picks single pixels",
        (
            "an adaptive pool is written so if its windows differ in size: choose an image size that its output size "
            "divides evenly, as 224 for the 7 x 7 of torchvision's networks"
        ),
    ),
    (
        "Sqrt Reciprocal ReduceL1 ReduceL2 ReduceSumSquare ReduceMin ReduceLogSumExp",
        "it is mostly part of a division by what is measured on each image, which is not computed under encryption",
        f"{_BATCH_NORM}; pixels are brought to the card's mean and standard_deviation before the model",
    ),
    (
        "Exp Log",
        "not computed under encryption by itself",
        "use Sigmoid, Softmax, SiLU or Tanh as one operator, and end the model in Sigmoid, Softmax or logits",
    ),
    (
        "ArgMax ArgMin TopK Round Hardmax",
        "it turns logits into a decision, which the data owner does",
        "end the model in logits, before it",
    ),
    (
        "Resize Upsample GridSample ConvTranspose MaxUnpool",
        "images are not resized inside the model",
        "take this part out: the card's height and width say what size the model gets",
    ),
    (
        "If Loop Scan",
        "the model takes different ways for different inputs",
        "export it for a fixed input size, batch 1, with constants folded (do_constant_folding=True)",
    ),
    ("LSTM GRU RNN", "recurrent networks are not supported", "use a convolutional network"),
    ("Attention Einsum", "products of two images are not supported", "use a convolutional network"),
    (
        "Elu Selu Celu Mish Softplus Softsign ThresholdedRelu",
        "this activation is not computed under encryption",
        "train the model with ReLU, LeakyReLU, SiLU or GELU instead",
    ),
    ("RandomNormalLike", "it draws random numbers", "export the model in evaluation mode"),
    (
        "DequantizeLinear QuantizeLinear QLinearConv ConvInteger DynamicQuantizeLinear",
        "quantised models are not supported",
        "export the model with float weights, before it is quantised",
    ),
)
"""Operators, why they are refused, and what to do instead."""
_ADVICE: Final = MappingProxyType({name: advice for names, *advice in _GROUPS for name in names.split()})


def explain_unsupported(node: Node) -> ModelFileError:
    """The error for an operator that has no handler: why, and what to do instead."""
    reason, advice = _ADVICE.get(
        node.operator,
        ("not supported under encryption", "replace it before the export by operators that docs/own-model.md lists"),
    )
    return node.unsupported(reason, advice)
