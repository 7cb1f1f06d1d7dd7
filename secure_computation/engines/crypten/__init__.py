"""The reference engine: CrypTen's own tensors and protocols, 64-bit ring, 16 fractional bits, dealt tuples."""
