"""Runs side by side: result files, one for each run, and the page docs/federated-results.md made of them alone."""

from pathlib import Path
from typing import Final

RESULTS: Final = Path("benchmarks/results/federated")
"""Within the repository, as PAGE."""
PAGE: Final = Path("docs/federated-results.md")
PLOTS: Final = "federated-plots"
"""The folder beside the page that holds its plots."""
