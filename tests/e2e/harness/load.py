"""Steady, bounded load on an edge, and a reader that asks for the JWKS all the while."""

import threading
import time
from collections import Counter

from .client import bearer, get, send


class Load(threading.Thread):
    """One client of one edge, which asks over and over. Whoever holds its `turn` makes it wait."""

    def __init__(self, edge, name, token):
        super().__init__(daemon=True)
        self.edge, self.account, self.token = edge, name, token
        self.turn, self.ended = threading.Lock(), threading.Event()
        self.answers = Counter()

    def run(self):
        while not self.ended.wait(0.02):
            with self.turn:
                self.ask()

    def ask(self):
        try:
            answer = send(self.edge.port, f"/accounts/{self.account}", [bearer(self.token)])
        except OSError as error:
            self.answers[str(error)] += 1
        else:
            self.answers[answer.status, answer.body] += 1


class JwksReader(threading.Thread):
    """Reads a scope's key set and /readyz over and over, and keeps what it saw, with the time."""

    def __init__(self, placet, client_id="orders"):
        super().__init__(daemon=True)
        self.placet, self.path = placet, f"/scopes/{client_id}/jwks.json"
        self.ended, self.failures = threading.Event(), []
        # (when, key ids as published), and the whole of the last set.
        self.seen, self.last = [], None

    def run(self):
        while not self.ended.wait(0.05):
            try:
                jwks, ready = get(self.placet.http, self.path), get(self.placet.admin, "/readyz")
            except OSError as error:
                self.failures.append(str(error))
                continue
            if (jwks.status, ready.status) == (200, 200):
                self.last = jwks.json()
                self.seen.append((time.monotonic(), [key["kid"] for key in self.last["keys"]]))
            else:
                self.failures.append((jwks.status, ready.status, ready.body))
