"""All parties on one machine: for the demonstration, end-to-end tests and benchmarks. Never installed."""
