"""Chaos: faults of one kind under the load of the design's prototype, on real services with real workers; the checker has the last word."""
