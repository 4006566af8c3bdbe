"""A feed with state: the last price of each symbol, in a module global of the worker.

Objects as data type: each message is JSON, and arrives as a dict.
"""

prices = {}


class Quotes:
    data_type = "object"
    ping_interval = 10.0

    def __init__(self, symbols=()):
        self.symbols = list(symbols)

    def on_open(self, ws, event):
        ws.send({"subscribe": self.symbols})

    def on_message(self, ws, event):
        prices[event.data["symbol"]] = event.data["price"]


def price(symbol):
    """Ask from outside: mooring call quotes price '"EURUSD"'."""
    return prices.get(symbol)
