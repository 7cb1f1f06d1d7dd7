"""A model whose both halves are here, and the three parties that evaluate it in one process."""

import copy
import tempfile
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import CallerError, ConfigurationError, ImageError, ModelFileError
from contract.ticket import Engine
from encrypted_inference.evaluation import Cost, Evaluation, GivenImages, Images, parse_engine
from model_owner.choosing_precision import lower_within_budget
from model_owner.in_clear import ModelInClear
from model_owner.onnx_import.compiling import lower
from model_owner.onnx_import.reading import OnnxModel, read_onnx
from secure_computation.crypten_bridge import is_installed, not_installed
from secure_computation.engines.choosing import data_owner_side, dealer_side, model_owner_side, offered_engines
from secure_computation.engines.interface import Answer
from secure_computation.engines.masked.plan import reference
from secure_computation.engines.masked.plan.fixed_point import IntegerWeights, quantise_image, round_weights
from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.session.costs import most_images
from secure_computation.engines.masked.session.in_process import (
    InProcessParties,
    InProcessResult,
    MemoryStore,
    run_batch_in_process,
)
from secure_computation.material import ItemName, item_name
from secure_computation.plan import Plan, make_plan
from secure_computation.private_weights import PrivateWeights
from secure_computation.randomness import Seed

if TYPE_CHECKING:
    import torch

_VERSION: Final = "1.0.0"
_CRYPTEN_HOLDS: Final = 2.0**15
"""Below this its products, of 32 fractional bits in 64, leave room for truncation to go wrong only rarely."""


class Model:
    """Made by `load`. `run` evaluates images on shares, `compute_plain` in clear."""

    def __init__(self, plan: Plan, weights: PrivateWeights, plain: ModelInClear, refused: dict[Engine, str]) -> None:
        """See `load`. `refused`: why an engine cannot run it."""
        self._plan = plan
        self._weights = weights
        self._plain = plain
        self._refused = MappingProxyType(refused)
        self._parties: dict[Engine, InProcessParties] = {}
        self._integers: IntegerWeights | None = None
        self._weights_version = token_hex(16)
        self._dealers_key = Seed.fresh()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self._plan.network.input_shape

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that can run it here, the default first."""
        return tuple(engine.value for engine in offered_engines(self._plan))

    def __repr__(self) -> str:
        network = self._plan.network
        weights = sum(tensor.size for tensor in self._weights.values())
        return (
            f"<Model: images {self.input_shape} -> {network.classes} logits, {weights:,} weights, "
            f"engine{'s' * (len(self.engines) > 1)} {' and '.join(self.engines)}>"
        )

    def compute_plain(self, images: Any) -> NDArray[np.float64]:
        """Logits of the model in clear, by onnxruntime; shapes and errors as in `run`."""
        given = GivenImages.check(images, self.input_shape)
        rows: NDArray[np.float64] = given.shape_answers(self._plain.logits(given.images).astype(np.float64))
        return rows

    def run(self, images: Any, *, engine: Engine | str | None = None) -> Evaluation:
        """Evaluate images on shares, all three parties in this process.

        Args:
            images: an array or torch tensor of shape (channels, height, width), or (images, channels, height, width).
            engine: "masked" or "crypten"; if left out, the first of `engines`.

        Raises:
            CallerError: wrong shape, NaN, an engine that cannot run this model, or an image whose values are far beyond
                those of the images for calibration.
        """
        given = GivenImages.check(images, self.input_shape)
        chosen = parse_engine(self.engines[0] if engine is None else engine)
        if chosen in self._refused:
            raise CallerError(f"the engine '{chosen.value}' cannot run this model: {self._refused[chosen]}")
        rows: list[Answer] = []
        costs: list[Cost] = []
        for batch in self._split(given.images, chosen):
            result = run_batch_in_process(self._made_parties(chosen), list(batch), items=[self._item() for _ in batch])
            rows += result.answers
            costs.append(_count(result))
        return Evaluation(
            engine=chosen,
            logits=given.shape_answers(np.stack([np.asarray(row) for row in rows])),
            plain=given.shape_answers(self._plain.logits(given.images).astype(np.float64)),
            cost=sum(costs[1:], costs[0]),
        )

    def _split(self, images: Images, engine: Engine) -> list[NDArray[np.float32]]:
        """The images of each session: CrypTen's engine takes one."""
        masked = self._plan.engines.masked
        if engine is Engine.CRYPTEN or masked is None:
            for index, image in enumerate(images):
                if not self._fits_crypten(image):
                    raise _too_large(index)
            return [images[index : index + 1] for index in range(len(images))]
        self._require_range(masked, images)
        most = most_images(masked)
        return [images[start : start + most] for start in range(0, len(images), most)]

    def _require_range(self, lowering: MaskedLowering, images: Images) -> None:
        """Raise CallerError for an image that drives a value out of its ring, where the engine would be wrong."""
        if self._integers is None:
            self._integers = round_weights(lowering, self._weights)
        for index, image in enumerate(images):
            try:
                reference.evaluate(lowering, self._integers, quantise_image(lowering, image))
            except (ModelFileError, ImageError) as error:
                other = Engine.CRYPTEN not in self._refused and self._fits_crypten(image)
                raise _too_large(index, or_else=", or use the engine 'crypten'" if other else "") from error

    def _fits_crypten(self, image: NDArray[np.float32]) -> bool:
        """Whether all values that an image leads to are such that CrypTen's engine can compute with them."""
        import torch

        from secure_computation.float_reference import evaluate

        largest = [0.0]

        def observe(_name: str, value: torch.Tensor) -> None:
            largest.append(float(value.abs().max()))

        evaluate(self._plan.network, self._weights, torch.from_numpy(image[None]), observe=observe)
        return all(one < _CRYPTEN_HOLDS for one in largest)  # False for NaN

    def _made_parties(self, engine: Engine) -> InProcessParties:
        """The three sides of an engine. They are kept: masked weights are sent once."""
        if engine not in self._parties:
            self._parties[engine] = InProcessParties(
                dealer=dealer_side(self._plan, engine, key=self._dealers_key),
                data_owner=data_owner_side(self._plan, engine, store=MemoryStore()),
                model_owner=model_owner_side(
                    self._plan, engine, weights=self._weights, weights_version=self._weights_version
                ),
            )
        return self._parties[engine]

    def _item(self) -> ItemName:
        """A name that no item had before."""
        return item_name(
            session=token_hex(16),
            plan_hash=self._plan.plan_hash(),
            data_owner="here",
            model_owner="here",
            version=_VERSION,
        )


def _too_large(index: int, *, or_else: str = "") -> CallerError:
    return CallerError(
        f"image {index} holds values, or leads to some, far beyond those of the images for calibration: load the model "
        f"with images of this kind{or_else}"
    )


def load(source: "Path | str | torch.nn.Module", *, calibration: Any) -> Model:
    """Load a model to evaluate it on shares in this process.

    Args:
        source: the path of an ONNX file, or a torch module, which is exported to ONNX in evaluation mode.
        calibration: images of the kind that the model will see, (images, channels, height, width) or a single one. How
            large values get on them sets the masked engine's scales and rings, with two bits of headroom.

    Raises:
        ModelFileError: the file is damaged, or an operator cannot be computed under encryption; it names the operator
            and says what to do instead.
        CallerError: the images do not fit the model.
        ConfigurationError: a package is missing that this model needs.
    """
    model = read_onnx(Path(source)) if isinstance(source, Path | str) else _export(source, calibration)
    network, weights, _ = lower(model)
    images = GivenImages.check(calibration, network.input_shape).images
    if images.min() == images.max():
        raise CallerError(
            "the images for calibration hold one value everywhere, which says nothing of how large values get: give "
            "images like those that the model will see"
        )
    masked, refused = None, {}
    try:
        masked = lower_within_budget(network, weights, images).lowering
    except ModelFileError as error:
        refused[Engine.MASKED] = str(error)
    if not is_installed():
        refused[Engine.CRYPTEN] = str(not_installed("it"))
    plan = make_plan(network, masked)
    return Model(plan, weights, ModelInClear(bytes(model.proto.SerializeToString())), refused)


def _export(module: "torch.nn.Module", images: Any) -> OnnxModel:
    """Trace a torch module, in float32, with two zero images of the shape of these, so that the batch stays free."""
    import torch

    if not isinstance(module, torch.nn.Module):
        raise CallerError("give the path of an ONNX file or a torch module")
    if find_spec("onnxscript") is None:
        raise ConfigurationError("a torch module is exported with onnxscript, which is missing: pip install onnxscript")
    from federated_learning.export import trace

    try:
        *_, channels, height, width = np.shape(images)
    except ValueError as error:
        raise CallerError("the images for calibration are no array (images, channels, height, width)") from error
    with tempfile.TemporaryDirectory() as folder:  # which only this account may read
        path = Path(folder) / "model.onnx"
        path.write_bytes(
            trace(
                copy.deepcopy(module).cpu().float().eval(), torch.zeros(2, channels, height, width)
            ).SerializeToString()
        )
        return read_onnx(path)


def _count(result: InProcessResult) -> Cost:
    return Cost(
        online_bytes=result.online.bytes_sent + result.online.bytes_received,
        one_way_trips=result.online.one_way_trips,
        offline_bytes=result.offline_bytes,
        material_bytes=result.dealt.bytes_received + result.dealt_to_data_owner.bytes_received,
        weights_bytes=result.offline.bytes_received,
    )
