"""The masked engine: exact fixed-point evaluation in small rings, one round trip for each layer of comparisons."""
