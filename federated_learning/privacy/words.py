"""What noise promises and what was spent, in words."""

from collections.abc import Sequence

from federated_learning.privacy.accounting import compute_epsilon, write_epsilon
from federated_learning.privacy.ledger import Charge, Ledger
from federated_learning.privacy.mechanism import Mechanism


def describe_privacy(mechanism: Mechanism, *, rounds: int, hospitals: int) -> tuple[str, ...]:
    """What a run tells of one patient, and by which noise: the same on everybody's screen."""
    privacy = mechanism.privacy
    outsider, insider, one = (
        write_epsilon(compute_epsilon([seen], delta=privacy.delta))
        for seen in (mechanism.outsider(rounds), mechanism.insider(rounds), mechanism.insider(rounds, colluding=1))
    )
    noise = (
        "each hospital's noise alone" if privacy.each_alone else f"the noise of {mechanism.shares.threshold} hospitals"
    )
    what = (
        f"privacy: in {_count(rounds, 'round')}, {noise} has {privacy.noise_multiplier:g} times the norm "
        f"{privacy.clip:g} of a {privacy.unit}; each round draws each of about {privacy.patients} "
        f"{privacy.unit}s with probability {privacy.sampling_rate:g}"
    )
    how_much = (
        f"epsilon of one {privacy.unit}, at delta {privacy.delta:g}: {outsider} to the coordinator and whoever has the "
        f"model; {one} to them with one hospital, {insider} with all {hospitals - 1} others"
    )
    return what, how_much


def record_privacy(mechanism: Mechanism, *, rounds: int) -> dict[str, str | int | float]:
    """What a model's card says of the noise that it was trained with."""
    privacy = mechanism.privacy
    epsilon = compute_epsilon([mechanism.outsider(rounds)], delta=privacy.delta)
    return {
        f"epsilon of one {privacy.unit}": write_epsilon(epsilon),
        "delta": privacy.delta,
        "noise multiplier": privacy.noise_multiplier,
        f"clipping norm of a {privacy.unit}": privacy.clip,
        f"sampling rate of {privacy.unit}s": privacy.sampling_rate,
    }


def describe_ledger(ledger: Ledger, *, planned: Charge | None = None) -> tuple[str, ...]:
    """What is spent and what is left for one population, run by run, and what `planned` would bring it to."""
    limits, charges = ledger.limits, ledger.charges()
    spent = ledger.spent()
    lines = [
        f"patients of '{limits.population}', at delta {limits.delta:g}, {_count(len(charges), 'run')} charged:",
        _describe_one("to coordinators and whoever has a model", spent.outsider, limits.outsider_epsilon),
        _describe_one("to all other hospitals together", spent.insider, limits.insider_epsilon),
        *_list_runs(charges, limits.delta),
    ]
    if planned is not None and all(one.training != planned.training for one in charges):
        would = ledger.spent(beside=planned)
        fits = would.outsider <= limits.outsider_epsilon and would.insider <= limits.insider_epsilon
        lines.append(
            f"run '{planned.run}' of these settings is not charged yet: with it {write_epsilon(would.outsider)} and "
            f"{write_epsilon(would.insider)} would be spent, {'which is allowed' if fits else 'which is refused'}"
        )
    return tuple(lines)


def _describe_one(whom: str, spent: float, limit: float) -> str:
    # Epsilons of runs do not simply add up; what is left is what the total may still grow by.
    left = max(0.0, limit - spent)
    return f"  {whom}: epsilon {write_epsilon(spent)} of {limit:g} is spent, {int(left * 100) / 100:.2f} is left"


def _list_runs(charges: Sequence[Charge], delta: float) -> list[str]:
    return [
        f"  run '{one.run}', {_count(one.outsider.rounds, 'round')}: by itself {write_epsilon(outsider)} and "
        f"{write_epsilon(insider)}"
        for one in charges
        for outsider, insider in [
            (compute_epsilon([one.outsider], delta=delta), compute_epsilon([one.insider], delta=delta))
        ]
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
