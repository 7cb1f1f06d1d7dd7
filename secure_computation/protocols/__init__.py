"""The masked engine's protocols, one on each page, with dealer, P0 and P1 side by side.

Everywhere: P0 is the data owner, P1 the model owner, D the crypto provider. Ring elements are uint32 arrays; those of a
ring of k < 32 bits are reduced when they are sent, and may carry anything above bit k before that. `draws` are a
party's values from the seed that it shares with D. Explained for readers of the papers in docs/protocol.md.
"""
