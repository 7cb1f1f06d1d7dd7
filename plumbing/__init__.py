"""What every server and command shares: settings, command line, output, HTTP with limits, proxies, readiness."""
