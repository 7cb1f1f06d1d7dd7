"""One target under atheris: `scripts/fuzz codec 1000000`. Counts what it was given, and ends at the first finding."""

import atheris

with atheris.instrument_imports(
    include=["contract", "authority", "plumbing", "imaging", "model_owner", "secure_computation"]
):
    from tests.fuzzing.targets import TARGETS

import sys
import tempfile
from pathlib import Path


def main(name: str, inputs: int, seed: int) -> None:
    """Begin from the target's sample."""
    corpus = Path(tempfile.mkdtemp(prefix=f"fuzzing-{name}-"))
    (corpus / "sample").write_bytes(TARGETS[name].sample())
    options = [f"-runs={inputs}", f"-seed={seed}", "-max_len=8192", "-rss_limit_mb=4096", "-timeout=20"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name].call)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) not in {3, 4} or sys.argv[1] not in TARGETS or not sys.argv[2].isdigit():
        sys.exit(f"usage: scripts/fuzz TARGET INPUTS [SEED]; targets: {', '.join(TARGETS)}")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 1)
