"""Who is trusted: certificates, enrolment, revocation, and the `federation` command that makes them."""
