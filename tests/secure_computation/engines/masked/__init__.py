"""The masked engine."""
