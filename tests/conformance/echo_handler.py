"""The handler that the conformance run drives: whatever comes goes back."""


class Echo:
    def on_message(self, ws, event):
        ws.send(event.data)
