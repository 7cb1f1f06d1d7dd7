from federated_learning.privacy.mechanism import Mechanism
from federated_learning.privacy.settings import Privacy
from federated_learning.privacy.words import describe_privacy


def test_that_everybody_is_drawn_does_not_read_as_one_patient() -> None:
    privacy = Privacy(noise_multiplier=2.0, clip=0.5, sampling_rate=1.0, patients=96, delta=1e-3)
    mechanism = Mechanism.plan(privacy, hospitals=3, threshold=3, elements=1000)
    what, _ = describe_privacy(mechanism, rounds=2, hospitals=3)
    assert what.endswith("each round draws each of about 96 patients with probability 1")
