"""The model owner's folder of imported models: DATA/models/NAME/VERSION, readable by its owner only.

    card.json       public: the model card
    plan.json       public: network and lowerings, canonical bytes
    weights.sealed  private, sealed with the model owner's key (secure_computation/at_rest.py)
    onnx.sealed     private, sealed: the given ONNX model in one piece, kept to compare with onnxruntime
    manifest.json   SHA-256 of each of these, checked whenever a model is loaded
    withdrawn.json  only of a version that was taken out of service: when

A version is written once, into a temporary folder that is then renamed; it is never changed afterwards.
"""

import hashlib
import io
import logging
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, Field, ValidationError

from contract.api import MAX_PLAN_BYTES
from contract.base import Strict
from contract.errors import ConfigurationError, ModelFileError, ModelWithdrawn
from contract.files import create, move, private_folder
from contract.model_card import ModelCard, OutputPolicy, read_card
from model_owner.calibration_images import load_calibration_images
from model_owner.choosing_precision import ChosenPrecision, OnStep, lower_within_budget, round_up
from model_owner.onnx_import.compiling import CompiledModel, compile_model
from model_owner.onnx_import.reading import MAX_FILE_BYTES
from plumbing.settings import PlanLimits
from secure_computation.at_rest import DamagedFile, StorageKey, read_sealed, write_sealed
from secure_computation.crypten_bridge import not_installed
from secure_computation.plan import Plan, PlanHash, make_plan, parse_plan, require_affordable
from secure_computation.private_weights import PrivateWeights

CARD, PLAN, WEIGHTS, ONNX, MANIFEST = "card.json", "plan.json", "weights.sealed", "onnx.sealed", "manifest.json"
WITHDRAWN = "withdrawn.json"
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_SEALED_BYTES = 2 * MAX_FILE_BYTES
_WEIGHTS_PURPOSE, _ONNX_PURPOSE = "weights", "onnx model"
_LOG = logging.getLogger(__name__)


class Manifest(Strict):
    """What a version's folder holds."""

    sha256: dict[str, str]
    """Of every file but this one, by name; of sealed files as they lie there."""
    weights_version: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """Drawn at random at import; public. Names these weights to the crypto provider, so that no two versions of
    weights are ever hidden by the same mask."""


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """An imported version, its hashes checked. Held by the model owner."""

    folder: Path
    card: ModelCard
    plan: Plan
    weights: PrivateWeights = field(repr=False)
    weights_version: str
    onnx: Callable[[], bytes] = field(repr=False)
    """Opens the ONNX model, which only checking needs."""
    precision: ChosenPrecision | None = field(default=None, repr=False)
    """How its import chose the masked engine's bits; None of what was loaded."""

    @cached_property
    def plan_hash(self) -> PlanHash:
        """The plan's; computed once, because every ticket is compared with it."""
        return self.plan.plan_hash()

    @cached_property
    def card_hash(self) -> str:
        """The card's, likewise."""
        return self.card.card_hash()


class Withdrawal(Strict):
    """When a version was taken out of service."""

    at: AwareDatetime


def is_withdrawn(model: ImportedModel) -> bool:
    """Whether a version was taken out of service, also by another process, a moment ago."""
    return (model.folder / WITHDRAWN).exists()


def require_in_service(model: ImportedModel) -> None:
    """Raise ModelWithdrawn if a version was taken out of service."""
    if is_withdrawn(model):
        raise ModelWithdrawn(
            f"{model.card.name} {model.card.version} was withdrawn by its owner: open a session with another version"
        )


class ImportedModels:
    """All imported versions under one data folder."""

    def __init__(self, data_folder: Path, key: StorageKey, *, limits: PlanLimits | None = None) -> None:
        """The folder need not exist yet; `add` makes it. `key`: the model owner's, which seals weights.

        `limits`: of what a model may cost to be loaded; None: of any.
        """
        self._models = data_folder / "models"
        self._key = key
        self._limits = limits

    def add(
        self,
        model_path: Path,
        card_path: Path,
        calibration: Sequence[Path] = (),
        *,
        logit_error: float | None = None,
        references: Path | None = None,
        on_step: OnStep = lambda _words: None,
    ) -> ImportedModel:
        """Compile model.onnx, lower it for every engine, and store the version.

        `calibration`: images on which the ranges of values are measured; phantom radiographs if there are none.
        `logit_error`: how far logits may be from floating point on them; by default about 0.03. `references`: a folder
        of pictures whose answers the stored card vouches for. `on_step`: told in words what takes the next seconds.

        Raises ModelFileError if file or card cannot be served, the version exists or its logits cannot be within
        `logit_error`; CallerError for reference pictures that will not do; ConfigurationError if the data folder cannot
        be written.
        """
        card = read_card(card_path)
        if card.references is not None:
            raise ModelFileError(
                f"{card_path}: references: the import fills them in, with --references FOLDER; remove them from here"
            )
        folder = self._models / card.name / card.version
        if folder.exists():
            raise ModelFileError(
                f"{card.name} {card.version} is imported already: give a changed model a new version in its card"
            )
        from model_owner.references import list_pictures, make_references  # loads torch, which serving does without

        pictures = [] if references is None else list_pictures(references)
        on_step("reading the model")
        compiled = compile_model(model_path, card)
        chosen = _lower_for_masked(compiled, card, calibration, logit_error, on_step)
        plan = make_plan(compiled.network, None if chosen is None else chosen.lowering)
        if pictures:
            vouched = make_references(pictures, card, plan, compiled.weights, on_step=on_step)
            card = ModelCard.model_validate(dict(card) | {"references": vouched})
        on_step("sealing the weights")
        self._keep(folder, compiled, card, plan)
        _warn_of_cost(plan)
        if plan.engines.crypten is None:
            _LOG.warning("%s; this version is offered without it", not_installed())
        return replace(_load_version(folder, self._key, self._limits), precision=chosen)

    def _keep(self, folder: Path, compiled: CompiledModel, card: ModelCard, plan: Plan) -> None:
        try:
            private_folder(self._models)
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".import-") as temporary:
                content = Path(temporary) / "content"
                _write_version(content, compiled, card, plan, self._key)
                move(content, folder)
        except OSError as error:
            raise ConfigurationError(
                f"{folder} cannot be written ({error.strerror}): choose a data folder that this account may write"
            ) from error

    def versions(self) -> dict[str, tuple[str, ...]]:
        """Versions of each imported model, oldest first, by name."""
        names = sorted(path for path in self._models.glob("*") if path.is_dir())
        found = {path.name: tuple(sorted(_list_versions(path), key=_parse_version)) for path in names}
        return {name: versions for name, versions in found.items() if versions}

    def in_service(self) -> tuple[tuple[str, str], ...]:
        """Name and version of everything imported that was not withdrawn."""
        return tuple(pair for pair in self._all() if not (self._folder(*pair) / WITHDRAWN).exists())

    def withdrawn(self) -> tuple[tuple[str, str], ...]:
        """Name and version of everything that was withdrawn."""
        return tuple(pair for pair in self._all() if (self._folder(*pair) / WITHDRAWN).exists())

    def withdraw(self, name: str, version: str) -> None:
        """Take a version out of service for good, durably: a server that runs refuses new sessions from now on.

        Raises ModelFileError if it is not imported; once more changes nothing.
        """
        if (name, version) not in self._all():
            raise ModelFileError(f"{name[:64]} {version[:64]} is not imported here: give the name and version of one")
        folder = self._folder(name, version)
        if (folder / WITHDRAWN).exists():
            return
        try:
            create(folder / WITHDRAWN, Withdrawal(at=datetime.now(UTC)).model_dump_json().encode())
        except OSError as error:
            raise ConfigurationError(
                f"{folder} cannot be written ({error.strerror}): correct its permissions"
            ) from error

    def _all(self) -> list[tuple[str, str]]:
        return [(name, version) for name, versions in self.versions().items() for version in versions]

    def _folder(self, name: str, version: str) -> Path:
        return self._models / name / version

    def load(self, name: str | None = None, version: str | None = None) -> ImportedModel:
        """Load one version after checking all its hashes.

        Args:
            name: may be left out if only one model is imported.
            version: the newest if left out.

        Raises:
            ModelFileError: no such version, or a file changed since its import.
        """
        known = self.versions()
        if name is None and len(known) == 1:
            name = next(iter(known))
        if name not in known or version not in {None, *known[name]}:
            raise ModelFileError(_explain_choice(name, version, known))
        return _load_version(self._models / name / (version or known[name][-1]), self._key, self._limits)


def _explain_choice(name: str | None, version: str | None, known: dict[str, tuple[str, ...]]) -> str:
    listing = ", ".join(f"{known_name} {' '.join(versions)}" for known_name, versions in known.items())
    if not known:
        return "no model is imported in this data folder: import one first, or give its --data-folder"
    if name is None:
        return f"several models are imported: name one of {listing}"
    return f"{name}{f' {version}' if version else ''} is not imported: import it, or name one of {listing}"


def _lower_for_masked(
    compiled: CompiledModel, card: ModelCard, calibration: Sequence[Path], logit_error: float | None, on_step: OnStep
) -> ChosenPrecision | None:
    """The masked engine's half of the plan; None, with a warning, if only the crypten engine can take the model."""
    images = load_calibration_images(card.input, calibration)
    policy = card.output_policy
    try:
        chosen = lower_within_budget(
            compiled.network,
            compiled.weights,
            images,
            arithmetic=card.arithmetic,
            label_only=policy is OutputPolicy.LABEL_ONLY,
            logit_error=logit_error,
            on_step=on_step,
        )
        if policy is OutputPolicy.LOGITS_AND_HEAT_MAP:
            from secure_computation.engines.masked.lowering.heat_map import add_heat_map  # loads torch

            mapped = add_heat_map(compiled.network, chosen.lowering, compiled.weights, images)
            chosen = replace(chosen, lowering=mapped)
    except ModelFileError as error:
        if policy is not OutputPolicy.LOGITS:
            raise  # only the masked engine can keep logits from the data owner, or open a heat map
        _LOG.warning("the masked engine cannot take this model, the crypten engine serves it alone: %s", error)
        return None
    if logit_error is not None and not chosen.is_within:
        raise ModelFileError(
            f"no plan keeps logits within {logit_error:g} of floating point on these calibration images: allow "
            f"--logit-error {round_up(chosen.error):g} or more, as the best plan that was found does, give real images "
            "of the model's kind with --calibration, or train the model with smaller weights"
        )
    return chosen


def _warn_of_cost(plan: Plan) -> None:
    try:
        require_affordable(plan, PlanLimits())
    except ModelFileError as error:
        _LOG.warning("hospitals and crypto providers refuse this model unless they raise their limits: %s", error)


def _list_versions(model: Path) -> list[str]:
    return [path.name for path in model.iterdir() if (path / MANIFEST).is_file() and not path.name.startswith(".")]


def _parse_version(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split("."))


def _write_version(folder: Path, compiled: CompiledModel, card: ModelCard, plan: Plan, key: StorageKey) -> None:
    weights_version = secrets.token_hex(16)
    context = _name_context(card, plan, weights_version)
    folder.mkdir(mode=0o700)
    create(folder / CARD, card.model_dump_json(indent=2).encode())
    create(folder / PLAN, plan.canonical_bytes())
    write_sealed(folder / WEIGHTS, key, compiled.weights.to_npz(), purpose=_WEIGHTS_PURPOSE, context=context)
    write_sealed(folder / ONNX, key, compiled.onnx, purpose=_ONNX_PURPOSE, context=context)
    hashes = {file: _hash_file(folder / file) for file in (CARD, PLAN, WEIGHTS, ONNX)}
    manifest = Manifest(sha256=hashes, weights_version=weights_version)
    create(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())


def _name_context(card: ModelCard, plan: Plan, weights_version: str) -> str:
    """What sealed files of a version belong to: they open beside no other card and no other plan.

    So whoever writes to the disk, without the key, can put no classes in another order for the owner to sign.
    """
    return f"{card.name} {card.version} {weights_version} {card.card_hash()} {plan.plan_hash()}"


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_version(folder: Path, key: StorageKey, limits: PlanLimits | None) -> ImportedModel:
    manifest = _check_manifest(folder)
    card = read_card(folder / CARD)
    plan_path = folder / PLAN
    if plan_path.stat().st_size > MAX_PLAN_BYTES:
        raise ModelFileError(f"{plan_path} is larger than {MAX_PLAN_BYTES} bytes: import the model again")
    try:
        plan = parse_plan(plan_path.read_bytes(), limits)
    except ModelFileError as error:
        raise ModelFileError(f"{card.name} {card.version}: {error}") from error
    context = _name_context(card, plan, manifest.weights_version)
    weights = _unseal(folder / WEIGHTS, key, purpose=_WEIGHTS_PURPOSE, context=context)
    return ImportedModel(
        folder=folder,
        card=card,
        plan=plan,
        weights=PrivateWeights.load(plan.network, io.BytesIO(weights)),
        weights_version=manifest.weights_version,
        onnx=lambda: _unseal(folder / ONNX, key, purpose=_ONNX_PURPOSE, context=context),
    )


def _unseal(path: Path, key: StorageKey, *, purpose: str, context: str) -> bytes:
    try:
        return read_sealed(path, key, purpose=purpose, context=context, limit=_MAX_SEALED_BYTES).tobytes()
    except (OSError, DamagedFile) as error:
        fault = str(error) if isinstance(error, DamagedFile) else f"cannot be read ({error.strerror})"
        raise ModelFileError(f"{path} {fault}: delete the folder and import the model again") from error


def _check_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    damaged = f"{folder} changed since the import: delete the folder and import the model again"
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise ModelFileError(damaged)
        manifest = Manifest.model_validate_json(path.read_bytes())
        if set(manifest.sha256) != {CARD, PLAN, WEIGHTS, ONNX}:
            raise ModelFileError(damaged)
        for file, expected in manifest.sha256.items():
            if _hash_file(folder / file) != expected:
                raise ModelFileError(damaged)
    except (OSError, ValidationError) as error:
        raise ModelFileError(damaged) from error
    return manifest
