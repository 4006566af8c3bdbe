"""The handler of the measurement "events with a Python handler"."""

count = 0


class Count:
    def on_message(self, ws, event):
        global count
        count += 1
