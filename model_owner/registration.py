"""A model owner's versions in the front end's catalog, signed: put there, kept up to date, and taken out."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from authority.certificates import PartyCertificate
from authority.vouching import sign_voucher
from contract.api import ModelEntry, PartyAddress
from contract.errors import ConfigurationError, EncryptedInferenceError, ModelFileError, Refused
from inference_service.client import InferenceServiceClient
from model_owner.allowances import choose_allowances
from model_owner.imported_models import ImportedModel, ImportedModels, is_withdrawn
from model_owner.server import INFERENCE_PATH, HostedModels
from model_owner.settings import ModelOwnerSettings
from secure_computation.engines.choosing import output_of, servable_engines

LOOK_SECONDS: Final = 60.0
"""Between two looks at the certificate."""
_LOG = logging.getLogger(__name__)


@dataclass(repr=False, eq=False)
class Registrar:
    """Registers versions with the certificate of the day: one that was renewed signs them again."""

    settings: ModelOwnerSettings
    models: HostedModels
    front_end: InferenceServiceClient
    _signed_with: int | None = field(default=None, init=False)
    """Serial number of the certificate."""

    def register(self) -> None:
        """Put every version that was not withdrawn in service at the front end.

        Raises ModelFileError for one that no engine serves, ConfigurationError for one that cannot be signed.
        """
        models = [model for model in self.models.values() if not is_withdrawn(model)]
        for model in models:
            _require_own_policy(model)
        own = PartyCertificate.read(self.settings.credentials.certificate)
        for model in models:
            entry = self._entry(model, own.party.organisation)
            shown = self.front_end.register_model(
                entry,
                voucher=sign_voucher(entry.statement(), self.settings.credentials),
                plan=model.plan.canonical_bytes(),
                allowances=choose_allowances(self.settings, model.card, model.plan.network),
            )
            if shown.statement() != entry.statement():
                raise ConfigurationError(
                    f"the front end shows {model.card.name} {model.card.version} as of "
                    f"{shown.model_owner.organisation}, not as it was registered: its account for this model owner "
                    f"must name {own.party.organisation}, as the certificate does"
                )
        self._signed_with = own.serial

    def look(self) -> None:
        """Register again if the certificate was renewed. What fails is logged, and tried at the next look."""
        try:
            if PartyCertificate.read(self.settings.credentials.certificate).serial == self._signed_with:
                return
            self.register()
        except EncryptedInferenceError as error:
            _LOG.warning("the catalog was not signed with the renewed certificate: %s", error)
        else:
            _LOG.info("the catalog was signed with the renewed certificate")

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look now and then, in a thread, until the block ends."""
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(LOOK_SECONDS):
                self.look()

        threading.Thread(target=work, name="registrar", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _entry(self, model: ImportedModel, organisation: str) -> ModelEntry:
        """What the catalog is to show of a version."""
        settings = self.settings
        try:
            return ModelEntry(
                card=model.card,
                version=model.card.version,
                plan_hash=model.plan_hash,
                engines=servable_engines(model.plan),
                model_owner=PartyAddress(
                    organisation=organisation,
                    address=settings.public_url or f"ws://{settings.listen}{INFERENCE_PATH}",
                ),
                crypto_provider=PartyAddress(
                    organisation=settings.crypto_provider.organisation, address=settings.crypto_provider.url
                ),
            )
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
            raise ConfigurationError(
                f"the catalog cannot show {where} as the settings have it: correct public_url, listen or "
                "crypto_provider"
            ) from None


def _require_own_policy(model: ImportedModel) -> None:
    if output_of(model.plan) is not model.card.output_policy:
        raise ModelFileError(
            f"{model.card.name} {model.card.version}: its plan does not keep to the output policy "
            f"'{model.card.output_policy.value}' of its card; import it again as a new version"
        )


def withdraw_models(imported: ImportedModels, front_end: InferenceServiceClient) -> None:
    """Tell the front end again of every version that was withdrawn: it may not have been there at the time."""
    for name, version in imported.withdrawn():
        try:
            front_end.withdraw_model(name, version)
        except Refused as error:  # it was never registered there
            _LOG.info("%s %s: %s", name, version, error)
