"""How a network becomes a plan of the masked engine, at import. Runs at the model owner."""
