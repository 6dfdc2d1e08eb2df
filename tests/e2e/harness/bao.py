"""Real OpenBao, in development mode or on disk, and its HTTP API."""

import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from .process import Process, free_port, wait_until


class Bao(Process):
    """Unsealed, root token `root`, KV v2 at `secret/`; everything in memory. With `tls` over TLS, by an authority of its own (`ca_file`)."""

    def __init__(self, directory, tls=False):
        self.port = free_port()
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.ca_file = Path(directory) / "vault-ca.pem" if tls else None
        argv = [os.environ["PLACET_TEST_BAO"], "server", "-dev", "-dev-root-token-id=root",
                f"-dev-listen-address=127.0.0.1:{self.port}", "-dev-no-store-token"]
        if tls:
            argv += ["-dev-tls", f"-dev-tls-cert-dir={directory}"]
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
            trust = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else None
            with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
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


# What sys/health answers.
STANDBY = 429


class RaftBao(Bao):
    """A server that keeps everything on disk: killed and started again, it is unsealed and goes on."""

    def __init__(self, directory, leader=None):
        """With a `leader` it becomes a node of that one's cluster."""
        super().__init__(directory)
        self.directory, self.leader, self._unseal_key = Path(directory), leader, None
        self.is_alone = leader is None
        (self.directory / "raft").mkdir()
        self.configure()

    def configure(self):
        """Writes its configuration, with a port for the cluster that the other nodes don't know yet."""
        config, cluster = self.directory / "bao.hcl", f"127.0.0.1:{free_port()}"
        join = f'retry_join {{ leader_api_addr = "{self.leader.address}" }}' if self.leader else ""
        config.write_text(f'''
            storage "raft" {{
              path = "{self.directory / "raft"}"
              node_id = "{self.port}"
              performance_multiplier = "1"
              autopilot_reconcile_interval = "500ms"
              autopilot_update_interval = "500ms"
              {join}
            }}
            listener "tcp" {{
              address = "127.0.0.1:{self.port}"
              cluster_address = "{cluster}"
              tls_disable = true
            }}
            api_addr = "{self.address}"
            cluster_addr = "https://{cluster}"
        ''')
        self.argv = [os.environ["PLACET_TEST_BAO"], "server", f"-config={config}"]

    def start(self):
        Process.start(self)
        self.wait_until(lambda: self.status("sys/health"), "OpenBao listens")
        if self.leader:
            self._unseal_key = self.leader._unseal_key
        if self._unseal_key:
            self.unseal()
        else:
            self._initialize()
        return self

    def unseal(self):
        # A node that has not joined yet refuses the key.
        self.wait_until(lambda: self.call("PUT", "sys/unseal", {"key": self._unseal_key})[0] == 200, "OpenBao takes its key")
        unsealed = (200,) if self.is_alone else (200, STANDBY)
        self.wait_until(lambda: self.status("sys/health") in unsealed, "OpenBao is unsealed")

    def _initialize(self):
        answer = self.must("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self._unseal_key = answer["keys"][0]
        self.unseal()
        self.must("POST", "auth/token/create", {"id": "root", "policies": ["root"]}, token=answer["root_token"])
        self.must("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
        self.wait_until(lambda: self.status("sys/internal/ui/mounts/secret") == 200, "KV is mounted")


class Cluster:
    """Three nodes with one storage; plain HTTP to their clients, TLS of their own making among themselves."""

    def __init__(self, directory):
        self.directory, self.nodes = Path(directory), []

    def __enter__(self):
        try:
            for index in range(3):
                place = self.directory / f"node-{index}"
                place.mkdir()
                self.nodes.append(RaftBao(place, leader=self.nodes[0] if self.nodes else None))
                self.nodes[-1].start()
                self.nodes[-1].is_alone = False
                if index == 0:
                    self.nodes[0].must("POST", "sys/storage/raft/autopilot/configuration", {"server_stabilization_time": "500ms"})
            self.wait_for_voters()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            node.stop()

    @property
    def addresses(self):
        return [node.address for node in self.nodes]

    def running(self):
        return [node for node in self.nodes if not node.ended()]

    def leader(self):
        """The node that writes; waits for an election."""
        active = lambda: next((node for node in self.running() if node.status("sys/health") == 200), None)
        return wait_until(active, "a node leads", 30)

    def standbys(self):
        leader = self.leader()
        return [node for node in self.running() if node is not leader]

    def wait_for_voters(self):
        """Until every node has a vote, so that any one of them may die."""

        def voters():
            status, answer = self.leader().call("GET", "sys/storage/raft/configuration")
            return status == 200 and [server for server in answer["data"]["config"]["servers"] if server["voter"]]

        wait_until(lambda: len(voters() or []) == len(self.nodes), "every node votes", 30)
