"""The crypto provider: the trusted dealer D of correlated randomness. It only ever sends."""
