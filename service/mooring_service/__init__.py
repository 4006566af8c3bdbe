"""The service: what keeps the workers. Supervisor, journal, feed, directory, configuration."""
