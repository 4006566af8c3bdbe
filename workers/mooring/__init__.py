"""What a worker process is made of, and what user code imports: `from mooring import WebSocket`."""
