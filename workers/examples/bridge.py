"""A feed in one worker, its work in another: what takes long does not hold the feed up.

`call_worker` returns at once and copies the parameters; the other worker is created by first use. A message that
cannot be handed on is the handler's own business: here it is counted.
"""

from mooring import call_worker

stored = []


class Bridge:
    data_type = "object"

    def __init__(self, worker="storage"):
        self.worker = worker

    def on_message(self, ws, event):
        call_worker(self.worker, "store", ws.id, event.data)

    def on_terminate(self, ws, event):
        call_worker(self.worker, "store", ws.id, {"ended": event.code})


def store(connection, item):
    """Runs in the worker `storage`: replace it by what your database wants."""
    stored.append([connection, item])


def stored_items():
    return stored
