"""The command line of the crypto provider."""

from pathlib import Path
from socket import socket
from typing import Annotated

import typer

from crypto_provider.settings import CryptoProviderSettings
from plumbing.command_line import log_to_stderr, new_program, run
from plumbing.listening import LISTEN, take_port
from plumbing.settings import load_settings

app = new_program(
    "The trusted crypto provider: deals correlated randomness ahead of each diagnosis, and learns nothing."
)


@app.command()
def serve(config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None) -> None:
    """Serve sessions until interrupted."""
    settings = load_settings(CryptoProviderSettings, config)
    log_to_stderr()
    with take_port(settings.listen.host, settings.listen.port, setting=LISTEN) as listener:  # before what takes seconds
        _serve(settings, listener)


def _serve(settings: CryptoProviderSettings, listener: socket) -> None:
    from crypto_provider.server import DEALING_PATH, build_dealer_app
    from inference_service.client import InferenceServiceClient
    from secure_computation.channel import serving
    from secure_computation.engines.choosing import warm_up_installed

    warm_up_installed()  # before the first session, not in it; which plans will come, nobody knows
    front_end = settings.inference_service
    with InferenceServiceClient.of(front_end) as plans:
        server = build_dealer_app(settings, plans)
        serving.serve(server, listener, name="crypto provider", host=settings.listen.host, path=DEALING_PATH)


def main() -> None:
    run(app, name="crypto-provider")
