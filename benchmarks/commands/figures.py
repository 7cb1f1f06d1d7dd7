"""`scripts/bench figures`."""


def figures() -> None:
    """Put the newest saved results on README's page."""
    from benchmarks.figures import write

    write()
