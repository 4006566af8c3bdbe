"""A token in a header, and two cookies in one: no record, event or log shows the values."""

import os


class WithToken:
    def __init__(self, session="s1", theme="dark"):
        self.headers = {
            "Authorization": f"Bearer {os.environ.get('EXAMPLE_TOKEN', 'example')}",
            "Cookie": f"session={session}; theme={theme}",
        }

    def on_message(self, ws, event):
        print("received", len(event.data), "characters")
