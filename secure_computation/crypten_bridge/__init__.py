"""The only place that touches CrypTen's process-wide state: its import, communicator, random streams and tuples."""
