"""Servers of other people's making, as programs of their own: what kept connections come back to."""
