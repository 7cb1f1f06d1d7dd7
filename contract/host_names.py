"""Names of hosts: how one is written, and whether a text can be one at all, where libraries end in their own errors."""


def is_host_name(text: str) -> bool:
    """Whether a name, or an address without brackets, can be looked up: labels are of 1 to 63 characters (RFC 1035)."""
    try:
        return bool(text.encode("idna"))
    except UnicodeError:
        return False


def with_port(host: str, port: int) -> str:
    """As people and URLs write it: `127.0.0.1:8443`, `[::1]:8443`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
