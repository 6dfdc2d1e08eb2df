"""Real OpenBao in development mode, and its HTTP API."""

import json
import os
import urllib.error
import urllib.request

from .process import Process, free_port


class Bao(Process):
    """Unsealed, root token `root`, KV v2 at `secret/`; everything in memory."""

    def __init__(self, directory):
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        argv = [os.environ["PLACET_TEST_BAO"], "server", "-dev", "-dev-root-token-id=root",
                f"-dev-listen-address=127.0.0.1:{self.port}", "-dev-no-store-token"]
        super().__init__("bao", argv, directory)

    def start(self):
        super().start()
        self.wait_until(lambda: self.status("sys/health") == 200, "OpenBao is unsealed")
        self.wait_until(lambda: self.status("sys/internal/ui/mounts/secret") == 200, "KV is mounted")
        return self

    def status(self, path):
        try:
            return self.call("GET", path)[0]
        except OSError:
            return 0

    def call(self, method, path, body=None, namespace=None, token="root"):
        """Status and parsed answer."""
        headers = {"x-vault-token": token, **({"x-vault-namespace": namespace} if namespace else {})}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.address}/v1/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text, status = answer.read(), answer.status
        except urllib.error.HTTPError as error:
            text, status = error.read(), error.code
        return status, json.loads(text) if text else {}

    def must(self, method, path, body=None, namespace=None, token="root"):
        status, answer = self.call(method, path, body, namespace, token)
        assert status < 300, f"{method} {path}: {status} {answer}"
        return answer

    def put_key(self, path, mount="secret", version=2, namespace=None, **fields):
        """Writes the fields of one KV secret."""
        if version == 2:
            return self.must("POST", f"{mount}/data/{path}", {"data": fields}, namespace)
        return self.must("POST", f"{mount}/{path}", fields, namespace)

    def policy(self, name, rules, namespace=None):
        self.must("PUT", f"sys/policies/acl/{name}", {"policy": rules}, namespace)

    def token(self, *policies, namespace=None, **options):
        body = {"policies": list(policies), "no_default_policy": True, **options}
        return self.must("POST", "auth/token/create", body, namespace)["auth"]["client_token"]

    def approle(self, name, *policies):
        """Role id and secret id of a new role."""
        if "approle/" not in self.must("GET", "sys/auth")["data"]:
            self.must("POST", "sys/auth/approle", {"type": "approle"})
        self.must("POST", f"auth/approle/role/{name}", {"token_policies": ",".join(policies)})
        role_id = self.must("GET", f"auth/approle/role/{name}/role-id")["data"]["role_id"]
        secret_id = self.must("POST", f"auth/approle/role/{name}/secret-id", {})["data"]["secret_id"]
        return role_id, secret_id
