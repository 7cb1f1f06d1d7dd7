"""`scripts/federate`: a whole federated training on this machine."""

from federated_learning.federated_commands import federate
from plumbing.command_line import new_app, run

app = new_app("Run a whole federated training on this machine.")
app.command()(federate)


def main() -> None:
    """Entry point of `scripts/federate`."""
    run(app, name="federate", typed="scripts/federate")


if __name__ == "__main__":
    main()
