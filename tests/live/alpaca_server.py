"""A small stand-in for Alpaca's trading API on the loopback address: it keeps orders, positions and fills."""

import json
import threading
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

KEY, SECRET = "PK-recognisable-key", "recognisable-secret"


class Exchange:
    """What Alpaca would hold; `faults` are answers given instead, one a request."""

    def __init__(self):
        self.lock = threading.Lock()
        self.orders, self.activities, self.units = {}, [], 0.0
        self.price, self.cash, self.blocked = 100.0, 100_000.0, False
        self.faults, self.seen = [], []
        self.cut_after_taking = False
        self.delay = 0.0

    def take(self, body):
        if any(o["client_order_id"] == body["client_order_id"] for o in self.orders.values()):
            return 422, {"code": 40010001, "message": "client_order_id must be unique"}
        size = float(body["qty"])
        units = size if body["side"] == "buy" else -size
        if self.units * units < 0 and size > abs(self.units) + 1e-9:
            return 403, {"code": 40310000, "message": "insufficient qty available for order"}
        if units * self.price > self.cash and units > 0:
            return 403, {"code": 40310000, "message": "insufficient buying power"}
        order = {
            "id": str(uuid.uuid4()),
            "client_order_id": body["client_order_id"],
            "symbol": body["symbol"],
            "qty": body["qty"],
            "side": body["side"],
            "type": body["type"],
            "time_in_force": body["time_in_force"],
            "status": "accepted",
            "submitted_at": "2024-03-01T15:00:00Z",
            "created_at": "2024-03-01T15:00:00Z",
        }
        self.orders[order["id"]] = order
        return 200, order

    def fill(self, parts=1):
        """Trade all that waits, in so many parts."""
        for order in self.orders.values():
            if order["status"] != "accepted":
                continue
            signed = float(order["qty"]) * (1 if order["side"] == "buy" else -1)
            for part in range(parts):
                self.activities.append(
                    {
                        "id": f"2024030115{len(self.activities):04d}::{uuid.uuid4()}",
                        "activity_type": "FILL",
                        "order_id": order["id"],
                        "symbol": order["symbol"],
                        "side": order["side"] if self.units >= 0 or signed > 0 else "sell_short",
                        "qty": str(abs(signed) / parts),
                        "price": str(self.price + part),
                        "transaction_time": f"2024-03-01T15:00:{len(self.activities) % 60:02d}.123456Z",
                    }
                )
            self.units += signed
            self.cash -= signed * self.price
            order["status"] = "filled"

    def answer(self, method, path, query, body):  # noqa: PLR0911 - one address a line
        if path == "/v2/account":
            equity = self.cash + self.units * self.price
            return 200, {"equity": str(equity), "cash": str(self.cash), "trading_blocked": self.blocked}
        if path == "/v2/positions":
            side = "long" if self.units > 0 else "short"
            held = [{"symbol": "SPY", "qty": str(self.units), "side": side}]
            return 200, held if self.units else []
        if path == "/v2/orders" and method == "POST":
            return self.take(body)
        if path == "/v2/orders":
            return 200, [one for one in self.orders.values() if one["status"] == "accepted"]
        if path == "/v2/orders:by_client_order_id":
            found = [o for o in self.orders.values() if o["client_order_id"] == query["client_order_id"][0]]
            return (200, found[0]) if found else (404, {"code": 40410000, "message": "order not found"})
        if path.startswith("/v2/orders/"):
            order = self.orders[path.rsplit("/", 1)[1]]
            if method == "DELETE":
                if order["status"] != "accepted":
                    return 422, {"code": 42210000, "message": "order is not cancelable"}
                order["status"] = "canceled"
                return 204, None
            return 200, order
        if path == "/v2/account/activities/FILL":
            after, token = query.get("after", [""])[0], query.get("page_token", [""])[0]
            later = [a for a in self.activities if a["transaction_time"] > after[:19]]
            start = next((i + 1 for i, a in enumerate(later) if a["id"] == token), 0)
            return 200, later[start : start + int(query["page_size"][0])]
        return 404, {"message": "no such address"}


@contextmanager
def alpaca_server():
    """Yield the exchange and its address."""
    exchange = Exchange()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self):
            split = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            with exchange.lock:
                exchange.seen.append((self.command, split.path, body))
                keys = (self.headers.get("APCA-API-KEY-ID"), self.headers.get("APCA-API-SECRET-KEY"))
                if keys != (KEY, SECRET):
                    code, said = 401, {"message": "unauthorized."}
                elif exchange.faults:
                    code, said = exchange.faults.pop(0)
                else:
                    code, said = exchange.answer(self.command, split.path, parse_qs(split.query), body)
                    if self.command == "POST" and exchange.cut_after_taking:
                        exchange.cut_after_taking = False
                        self.close_connection = True
                        return
            if code == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "500")
                self.end_headers()
                self.wfile.write(b'{"equ')
                self.close_connection = True
                return
            data = b"" if said is None else said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that http.server calls

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield exchange, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
