"""The public plan of the masked engine: its steps, its integers, and what it computes in whole numbers."""
