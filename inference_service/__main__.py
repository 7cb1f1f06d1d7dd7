"""`python -m inference_service` is `inference-service`."""

from inference_service.command import main

main()
