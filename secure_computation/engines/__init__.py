"""Engines: each evaluates the same public network on shares in its own way (crypten; masked to follow)."""
