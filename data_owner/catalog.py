"""The catalog as far as a data owner may rely on it: of its pinned model owners, and signed by them.

The front end shows the catalog and is trusted with nothing of it. Each entry (card, plan's hash, engines, addresses) is
signed by the model's owner, so it is checked before a picture is read by its card, and again before a session.
"""

from authority.vouching import find_signer
from contract.api import ModelEntry
from contract.errors import ConfigurationError, NotVouchedFor, PeerViolation
from contract.identity import Party, Role
from data_owner.settings import DataOwnerSettings
from inference_service.client import InferenceServiceClient
from secure_computation.channel.tls import TlsContext
from secure_computation.channel.trust import Trust
from secure_computation.engines.choosing import may_be_served_by, output_of
from secure_computation.plan import Plan, parse_plan


class ModelCatalog:
    """The models that a data owner may use."""

    def __init__(self, settings: DataOwnerSettings, front_end: InferenceServiceClient, context: TlsContext) -> None:
        """`context`: of this data owner's connections; whom it trusts there, it trusts here."""
        self._pinned = {peer.organisation for peer in settings.model_owners}
        self._limits = settings.plan_limits
        self._front_end = front_end
        self._context = context
        self._plan: tuple[str, Plan] | None = None
        """The newest that was fetched, by its hash: a plan of that hash never changes."""

    def list_offered(self) -> dict[str, ModelEntry]:
        """What the front end shows of pinned model owners: the newest version of each model, by name. Not checked yet.

        Raises ConfigurationError if that is nothing.
        """
        newest: dict[str, ModelEntry] = {}
        for entry in self._front_end.models():  # newest first within a model
            if entry.model_owner.organisation in self._pinned:
                newest.setdefault(entry.card.name, entry)
        if not newest:
            raise ConfigurationError(
                f"no model in service belongs to {' or '.join(sorted(self._pinned))}, which the settings name as "
                "model_owners: correct them, or ask whoever runs the front end"
            )
        return newest

    def choose(self, name: str | None) -> ModelEntry:
        """One model; without a name, the only one that pinned model owners offer.

        Raises NotVouchedFor or CertificateRefused if its owner does not vouch for what the catalog says.
        """
        if name is not None:
            return self.require_vouched(self._front_end.model(name))
        offered = self.list_offered()
        if len(offered) > 1:
            raise ConfigurationError(
                f"choose a model with --model; offered by your model owners: {', '.join(sorted(offered))}"
            )
        (entry,) = offered.values()
        return self.require_vouched(entry)

    def require_vouched(self, entry: ModelEntry) -> ModelEntry:
        """The same entry, if its owner vouches for it now; `require_vouched` says what is raised if not.

        Raises ConfigurationError if the settings do not name that owner.
        """
        if (owner := entry.model_owner.organisation) not in self._pinned:
            raise ConfigurationError(
                f"{entry.card.name} belongs to {owner}, which the settings do not name as one of model_owners; nothing "
                f"was sent. Choose another model, or add {owner} to the settings only if you trust it"
            )
        require_vouched(entry, self._context.trust())
        return entry

    def fetch_plan(self, entry: ModelEntry) -> Plan:
        """The plan of a model whose owner vouches for it now. Raises PeerViolation if the owner's words differ."""
        self.require_vouched(entry)
        if self._plan is None or self._plan[0] != entry.plan_hash:
            self._plan = (entry.plan_hash, parse_plan(self._front_end.plan(entry.plan_hash), self._limits))
        plan, wanted = self._plan[1], entry.card.input
        if (
            plan.network.input_shape != (wanted.channels, wanted.height, wanted.width)
            or plan.network.classes != len(entry.card.classes)
            or output_of(plan) is not entry.card.output_policy
            or not may_be_served_by(plan, entry.engines)
        ):
            raise PeerViolation(
                f"the plan of {entry.card.name} has another input, classes, output or engines than its card and its "
                "entry in the catalog; tell its owner"
            )
        return plan


def require_vouched(entry: ModelEntry, trust: Trust) -> None:
    """Raise NotVouchedFor unless an entry is, field by field, what the model owner that it names has signed.

    Raises CertificateRefused if that owner's certificate was revoked or is not valid today. `trust`: this data
    owner's, now.
    """
    name, owner = f"{entry.card.name} {entry.version}", entry.model_owner.organisation
    if entry.voucher is None:
        raise NotVouchedFor(
            f"the front end shows {name} without the signature of its owner, {owner}: nothing was sent; ask {owner} to "
            "update `model-owner` and start it again"
        )
    signed_with = find_signer(entry.voucher, entry.statement(), trust.authority)
    if signed_with is None:
        raise not_vouched_for(
            entry,
            f"what the front end shows of {name} is not what its owner, {owner}, signed (its card, engines or "
            f"addresses were changed, or {owner} runs another release)",
        )
    signer = trust.judge(signed_with, found_at=f"whoever signed {name}")
    if signer != Party(role=Role.MODEL_OWNER, organisation=owner):
        raise not_vouched_for(
            entry, f"what the front end shows of {name} was signed by the {signer} and not by its owner, {owner}"
        )


def not_vouched_for(entry: ModelEntry, found: str) -> NotVouchedFor:
    """The error for a model that was shown or asked for otherwise than its owner signed it."""
    owner = entry.model_owner.organisation
    return NotVouchedFor(
        f"{found}: nothing was sent; do not use this model, and tell {owner} and whoever runs the front end"
    )
