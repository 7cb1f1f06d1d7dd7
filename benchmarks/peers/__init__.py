"""Programs of other systems, each a process of its own; benchmarks/engines says how they are measured."""
