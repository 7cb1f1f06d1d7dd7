"""The two-party computation with a trusted dealer. No input or output but a channel."""
