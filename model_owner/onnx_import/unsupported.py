"""What to do instead of an operator that is not computed under encryption."""

from collections.abc import Mapping
from types import MappingProxyType

from contract.errors import ModelFileError
from model_owner.onnx_import.builder import Node

_NORMALISES = "it divides by a spread that it measures on each image, which is not computed under encryption"
_BATCH_NORM = "train the model with BatchNorm instead, whose statistics are constants after training"
_COMPARES = "values that depend on the image are not compared under encryption"
_AFTER_SIGMOID = (
    "leave out what follows the logits; a torchxrayvision model is exported without its op_threshs "
    "(model.op_threshs = None, model.apply_sigmoid = False)"
)
_RESIZES = "images are not resized inside the model"
_BRANCHES = "the model takes different ways for different inputs"
_FIXED = "export it for a fixed input size, batch 1, with constants folded (do_constant_folding=True)"
_DIVIDES = "it is mostly part of a division by what is measured on each image, which is not computed under encryption"
_UNEVEN_POOL = (
    "an adaptive pool is written so where its windows differ in size: choose an image size that its output size "
    "divides evenly, as 224 for the 7 x 7 of torchvision's networks"
)
_SEQUENCE = "recurrent networks are not supported"

_ADVICE: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "InstanceNormalization",
                "GroupNormalization",
                "LayerNormalization",
                "RMSNormalization",
                "LpNormalization",
            ),
            (_NORMALISES, f"GroupNorm, InstanceNorm and LayerNorm are of this kind: {_BATCH_NORM}"),
        ),
        "MeanVarianceNormalization": (_NORMALISES, _BATCH_NORM),
        "LRN": (_NORMALISES, _BATCH_NORM),
        **dict.fromkeys(
            ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Where", "NonZero"),
            (_COMPARES, _AFTER_SIGMOID),
        ),
        **dict.fromkeys(
            ("ScatterND", "GatherND", "GatherElements", "ScatterElements"),
            (
                "it picks single pixels",
                _UNEVEN_POOL,
            ),
        ),
        **dict.fromkeys(
            ("Sqrt", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMin", "ReduceLogSumExp"),
            (
                _DIVIDES,
                f"{_BATCH_NORM}; pixels are brought to the card's mean and standard_deviation before the model",
            ),
        ),
        **dict.fromkeys(
            ("Exp", "Log"),
            (
                "not computed under encryption by itself",
                "use Sigmoid, Softmax, SiLU or Tanh as one operator, and end the model in Sigmoid, Softmax or logits",
            ),
        ),
        **dict.fromkeys(
            ("ArgMax", "ArgMin", "TopK", "Round", "Hardmax"),
            ("it turns logits into a decision, which the data owner does", "end the model in logits, before it"),
        ),
        **dict.fromkeys(
            ("Resize", "Upsample", "GridSample", "ConvTranspose", "MaxUnpool"),
            (_RESIZES, "take this part out: the card's height and width say what size the model gets"),
        ),
        **dict.fromkeys(("If", "Loop", "Scan"), (_BRANCHES, _FIXED)),
        **dict.fromkeys(("LSTM", "GRU", "RNN"), (_SEQUENCE, "use a convolutional network")),
        **dict.fromkeys(
            ("Attention", "Einsum"), ("products of two images are not supported", "use a convolutional network")
        ),
        **dict.fromkeys(
            ("Elu", "Selu", "Celu", "Mish", "Softplus", "Softsign", "ThresholdedRelu"),
            (
                "this activation is not computed under encryption",
                "train the model with ReLU, LeakyReLU, SiLU or GELU instead",
            ),
        ),
        "RandomNormalLike": ("it draws random numbers", "export the model in evaluation mode"),
        **dict.fromkeys(
            ("DequantizeLinear", "QuantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear"),
            ("quantised models are not supported", "export the model with float weights, before it is quantised"),
        ),
    }
)


def refusal(node: Node) -> ModelFileError:
    """The error for an operator that has no handler: why, and what to do instead."""
    reason, advice = _ADVICE.get(
        node.operator,
        ("not supported under encryption", "replace it before the export by operators that docs/own-model.md lists"),
    )
    return node.unsupported(reason, advice)
