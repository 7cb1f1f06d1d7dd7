"""Subcommands of `scripts/bench`, one module each; benchmarks/__main__.py lists them."""
