"""Sums of vectors that nobody sees: secure aggregation after Bonawitz et al., "Practical Secure Aggregation for
Privacy-Preserving Machine Learning" (CCS 2017), active-adversary variant, with 256-bit seeds. State machines without a
network: `HospitalAggregation` and `CoordinatorAggregation` exchange bytes. docs/secure-aggregation.md has the protocol.
"""
