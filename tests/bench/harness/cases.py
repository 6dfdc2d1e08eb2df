"""The cases: what is sent, to which server, and what must come back."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    name: str
    # As the report calls it.
    title: str
    # The name of its server.
    server: str
    scope: str = "es256"
    # `kept`: drawn from a fixed set; `fresh`: a new token each time; `none`.
    credentials: str = "kept"
    expect: str = "token"
    method: str = "GET"
    path: str | None = None

    @property
    def is_known(self):
        """Whether each of its questions is asked before it is measured, of who keeps the answer."""
        return (self.expect == "token" and self.credentials != "fresh"
                and self.server != "placet-no-reuse")


ALGORITHM_NAMES = {"es256": "ES256", "eddsa": "EdDSA", "rs256": "RS256", "ps256": "PS256"}


def all_of(placet, peers):
    """Every case, the floor first."""
    return [
        Case("floor", "floor", "floor", expect="allow"),
        Case("floor-mimalloc", "floor with mimalloc", "floor-mimalloc", expect="allow"),
        Case("bypass", "bypass route", "placet", expect="allow", path="/healthz"),
        *(Case(f"warm-{scope}", f"warm, Cedar, {name}", "placet", scope)
          for scope, name in ALGORITHM_NAMES.items()),
        Case("warm-rego", "warm, Rego, ES256", "placet-rego", "rego"),
        *_without_reuse(placet),
        *(Case(f"cold-{scope}", f"cold, Cedar, {name}", "placet-cold", scope, "fresh")
          for scope, name in ALGORITHM_NAMES.items()),
        Case("cold-rego", "cold, Rego, ES256", "placet-rego", "rego", "fresh"),
        Case("anonymous", "anonymous, Cedar, ES256", "placet", "anonymous", "none"),
        Case("denied", "denied (403), Cedar", "placet", expect="deny", method="DELETE"),
        Case("floor-unix", "Unix socket: floor", "floor-unix", expect="allow"),
        Case("warm-unix", "Unix socket: warm, Cedar, ES256", "placet-unix"),
        Case("cold-unix", "Unix socket: cold, Cedar, ES256", "placet-cold-unix", "es256", "fresh"),
        *(Case(f"peer-{name}", name, f"peer-{name}", expect="allow") for name, _ in peers),
    ]


def _without_reuse(placet):
    """A program that always decides anew has no such case."""
    if not placet.can_reuse:
        return []
    return [Case("warm-no-reuse", "warm, Cedar, ES256, reuse off", "placet-no-reuse")]


def compared(cases):
    """Those whose latencies are worth a curve: the floor, Placet at its best and worst, the peers."""
    return [case for case in cases
            if case.name in ("floor", "warm-es256", "cold-es256") or case.name.startswith("peer-")]
