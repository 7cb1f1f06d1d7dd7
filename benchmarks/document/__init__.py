"""docs/benchmarks.md: kept results (`parts`), what is written about them (`sections`), plots, and the page itself."""
