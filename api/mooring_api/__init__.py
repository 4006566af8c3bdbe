"""Every way in: REST, SSE, console page, command line, Python client; composes and starts it all."""
