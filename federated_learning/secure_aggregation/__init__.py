"""Sums of vectors that nobody sees: secure aggregation after Bonawitz et al., "Practical Secure Aggregation for
Privacy-Preserving Machine Learning" (CCS 2017), active-adversary variant, with 256-bit seeds. State machines without a
network: `HospitalAggregation` and `CoordinatorAggregation` exchange bytes. docs/secure-aggregation.md has the protocol.
"""

from federated_learning.secure_aggregation.coordinator_aggregation import CoordinatorAggregation
from federated_learning.secure_aggregation.encoding import (
    EncodedUpdate,
    ExactField,
    UpdateEncoding,
    VectorLayout,
    compute_weight,
    decode_exact,
    encode_exact,
    first_limits,
    largest_field,
    next_limits,
)
from federated_learning.secure_aggregation.history import RoundHistory
from federated_learning.secure_aggregation.hospital_aggregation import HospitalAggregation
from federated_learning.secure_aggregation.masking import RingVector
from federated_learning.secure_aggregation.opening import Opening
from federated_learning.secure_aggregation.terms import RoundTerms, least_threshold

__all__ = [
    "CoordinatorAggregation",
    "EncodedUpdate",
    "ExactField",
    "HospitalAggregation",
    "Opening",
    "RingVector",
    "RoundHistory",
    "RoundTerms",
    "UpdateEncoding",
    "VectorLayout",
    "compute_weight",
    "decode_exact",
    "encode_exact",
    "first_limits",
    "largest_field",
    "least_threshold",
    "next_limits",
]
