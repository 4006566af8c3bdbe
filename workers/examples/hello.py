"""The first example of 4D's documentation: connect, say hello, get the answer, see the end.

Run it inside a worker:   mooring call main say_hello ws://127.0.0.1:8481/
or open it from outside:  mooring open ws://127.0.0.1:8481/ --handler hello
"""

from mooring import WebSocket


class Hello:
    """4D: a class with onMessage, onTerminate, onError and onOpen."""

    def __init__(self, greeting="Hello world"):
        self.greeting = greeting
        self.lines = []

    def on_open(self, ws, event):
        self.tell("Connection opened")
        ws.send(self.greeting)

    def on_message(self, ws, event):
        self.tell(f"Answer: {event.data}")
        ws.terminate()

    def on_error(self, ws, event):
        self.tell(f"Error: {event.errors[0].message}")

    def on_terminate(self, ws, event):
        self.tell("Connection closed")

    def tell(self, line):
        print(line)  # lands in the worker's log: mooring logs main
        self.lines.append(line)


def say_hello(url):
    """A function of [functions]: it returns the id; the callbacks follow when it has returned."""
    return WebSocket.new(url, Hello()).id
