"""Whether a text can be the name of a host at all: operating systems and libraries end in errors of their own."""


def is_host_name(text: str) -> bool:
    """Whether a name, or an address without brackets, can be looked up: labels are of 1 to 63 characters (RFC 1035)."""
    try:
        return bool(text.encode("idna"))
    except UnicodeError:
        return False
