"""A whole federated training on one machine: `federated-learning federate` and `scripts/federate`."""
