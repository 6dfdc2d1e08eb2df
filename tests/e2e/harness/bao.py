"""Real OpenBao, in development mode or on disk, and its HTTP API."""

import json
import os
import urllib.error
import urllib.request
from pathlib import Path

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


class RaftBao(Bao):
    """A server that keeps everything on disk: killed and started again, it is unsealed and goes on."""

    def __init__(self, directory, name="one", join=""):
        super().__init__(directory)
        self.name = f"bao-{name}"
        self.stdout_file, self.stderr_file = (Path(directory) / f"bao-{name}.{out}" for out in ("stdout", "stderr"))
        data, cluster = Path(directory) / f"raft-{name}", free_port()
        data.mkdir()
        config = Path(directory) / f"bao-{name}.hcl"
        config.write_text(f'''
            storage "raft" {{
              path = "{data}"
              node_id = "{name}"
              performance_multiplier = "1"
              {join}
            }}
            listener "tcp" {{
              address = "127.0.0.1:{self.port}"
              cluster_address = "127.0.0.1:{cluster}"
              tls_disable = true
            }}
            api_addr = "{self.address}"
            cluster_addr = "https://127.0.0.1:{cluster}"
        ''')
        self.argv = [os.environ["PLACET_TEST_BAO"], "server", f"-config={config}"]
        self._unseal_key = None

    def start(self):
        Process.start(self)
        self.wait_until(lambda: self.status("sys/health"), "OpenBao listens")
        if self._unseal_key:
            self.unseal()
        else:
            self._initialize()
        return self

    def unseal(self):
        self.must("PUT", "sys/unseal", {"key": self._unseal_key})
        self.wait_until(lambda: self.status("sys/health") == 200, "OpenBao is unsealed")

    def _initialize(self):
        answer = self.must("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self._unseal_key = answer["keys"][0]
        self.unseal()
        self.must("POST", "auth/token/create", {"id": "root", "policies": ["root"]}, token=answer["root_token"])
        self.must("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
        self.wait_until(lambda: self.status("sys/internal/ui/mounts/secret") == 200, "KV is mounted")


class RaftCluster:
    """Three nodes; the first one to start is the leader, and standbys answer reads by themselves."""

    def __init__(self, directory):
        first = RaftBao(directory, "one")
        join = f'retry_join {{ leader_api_addr = "{first.address}" }}'
        self.nodes = [first, *(RaftBao(directory, name, join) for name in ("two", "three"))]

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        first, *others = self.nodes
        first.start()
        for node in others:
            node._unseal_key = first._unseal_key
            Process.start(node)
            node.wait_until(lambda: node.status("sys/health") == 503, "the node has joined, and is sealed")
            node.must("PUT", "sys/unseal", {"key": node._unseal_key})
            node.wait_until(lambda: node.status("sys/health") == 429, "the node is a standby")
        first.wait_until(lambda: all(server["voter"] for server in self._servers(first)), "all may elect a leader", seconds=60)

    @staticmethod
    def _servers(node):
        return node.must("GET", "sys/storage/raft/configuration")["data"]["config"]["servers"]

    def __exit__(self, *_):
        for node in self.nodes:
            node.stop()

    def addresses(self):
        return [node.address for node in self.nodes]

    def leader(self):
        """The active node; None while there is none."""
        return next((node for node in self.nodes if node.status("sys/health") == 200), None)
