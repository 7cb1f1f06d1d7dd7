"""Channels between two parties: frames over memory, or over mutually authenticated TLS inside a WebSocket."""
