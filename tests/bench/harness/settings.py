"""The settings that Placet is measured with: one scope for each algorithm and each engine."""

import json

from .places import WORK

# Scope -> the algorithm of its key. All but `rego` ask Cedar.
ALGORITHMS = {"es256": "ES256", "eddsa": "EdDSA", "rs256": "RS256", "ps256": "PS256",
              "rego": "ES256", "anonymous": "ES256"}

# The header that carries the token.
HEADER = "x-placet-decision"

# Ten policies: one permits the request, one the anonymous caller, one forbids the deletion.
CEDAR = """\
permit (principal in Group::"eng", action == Action::"read", resource is Order);
permit (principal is Anonymous, action == Action::"read", resource is Order);
permit (principal in Group::"sales", action in [Action::"read", Action::"create"], resource is Order);
permit (principal in Group::"finance", action == Action::"read", resource is Invoice);
permit (principal in Group::"finance", action == Action::"update", resource is Invoice)
  when { context.http.method == "PUT" };
permit (principal in Group::"support", action == Action::"read", resource is Customer)
  when { principal.claims has email && principal.claims.email like "*@example.org" };
permit (principal in Group::"admin", action, resource);
forbid (principal, action, resource)
  when { context.source has ip && context.source.ip.isInRange(ip("198.51.100.0/24")) };
forbid (principal in Group::"suspended", action, resource);
forbid (principal, action == Action::"delete", resource is Order)
  unless { principal in Group::"admin" };
"""

# The same by rules, of which the grants are data.
REGO = """\
package envoy.authz

import rego.v1

default allow := false

allow if {
\tsome group in input.placet.principal.groups
\tinput.placet.target.action in data.grants[group][input.placet.target.type]
\tnot "suspended" in input.placet.principal.groups
\tnot net.cidr_contains("198.51.100.0/24", input.attributes.source.address.socketAddress.address)
}
"""
GRANTS = {"grants": {
    "eng": {"Order": ["read"]},
    "sales": {"Order": ["read", "create"]},
    "finance": {"Invoice": ["read", "update"]},
    "support": {"Customer": ["read"]},
}}


def write_policies():
    (WORK / "orders.cedar").write_text(CEDAR)
    (WORK / "orders.rego").write_text(REGO)
    (WORK / "grants.json").write_text(json.dumps(GRANTS))


def write(name, grpc, http, admin, scopes=tuple(ALGORITHMS), **more):
    """A settings file; its path."""
    settings = {
        "version": 1,
        "listen": {"grpc": grpc, "http": http, "admin": admin},
        "secretStores": [
            {"id": "files", "type": "file", "default": True, "details": {"directory": "keys"}}],
        "scopes": [_scope(client_id) for client_id in scopes],
        "decisionLog": {"sink": "stdout"},
        **more,
    }
    path = WORK / f"{name}.yaml"
    path.write_text(json.dumps(settings, indent=2))  # JSON is YAML.
    return path


def _scope(client_id):
    issuer = {
        "issuer": "https://idp.example/",
        "audiences": ["orders-api"],
        "jwksFile": "idp.jwks.json",
        "algorithms": ["ES256"],
    }
    cedar = {"engine": "cedar", "files": ["orders.cedar"]}
    rego = {"engine": "rego", "files": ["orders.rego"], "data": ["grants.json"],
            "query": "envoy/authz/allow"}
    return {
        "clientId": client_id,
        "identity": {"anonymous": True} if client_id == "anonymous" else {"jwt": [issuer]},
        "routes": [
            {"match": {"path": "/healthz"}, "bypass": True},
            _route("GET", "/api/v1/invoices/{id}", "Invoice", "read"),
            _route("PUT", "/api/v1/invoices/{id}", "Invoice", "update"),
            _route("GET", "/api/v1/customers/{id}", "Customer", "read"),
            _route("GET", "/api/v1/orders/{id}", "Order", "read"),
            _route("DELETE", "/api/v1/orders/{id}", "Order", "delete"),
        ],
        "policy": rego if client_id == "rego" else cedar,
        "jwtSigning": {"algorithm": ALGORITHMS[client_id]},
        # What is known when a case begins is known to its end.
        "jwtResponse": {"tokenLifetimeSeconds": 3600, "audience": f"{client_id}-upstream"},
    }


def _route(method, path, asset, action):
    return {
        "match": {"methods": [method], "path": path},
        "asset": {"type": asset, "id": "{id}"},
        "action": action,
    }
