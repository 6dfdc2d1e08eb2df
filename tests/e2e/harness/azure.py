"""Azure as its REST reference describes it: Key Vault's secrets, Entra ID's tokens, a machine's identity.

It is reached as a proxy, so that the programs ask for Azure's own names; TLS ends here, by an authority of ours.
Written from the public reference, not recorded from an account.
"""

import datetime
import http.server
import json
import ssl
import threading
import time
import urllib.parse

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

VAULT = "orders.vault.azure.net"
LOGIN = "login.microsoftonline.com"
MACHINE = "169.254.169.254"
TENANT, CLIENT = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
CLIENT_SECRET, ASSERTION, TOKEN = "canary-of-azure", "canary-of-kubernetes", "canary-of-token"


class Azure:
    """`versions` by secret, oldest first; `fault` is a status that every question to the vault then gets."""

    def __init__(self, directory):
        self.versions, self.fault, self.denied, self.next_host, self.asked = {}, None, (), VAULT, []
        self.authority = directory / "azure-ca.pem"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self._certificates(directory))

    def put(self, name, text, **attributes):
        """A new version; returns its id."""
        versions = self.versions.setdefault(name, [])
        id = f"{len(versions) + 1:032x}"
        versions.append({"id": id, "value": text, "attributes": {"enabled": True, "created": int(time.time()), **attributes}})
        return id

    def environment(self, **more):
        """For a program that reaches Azure through us."""
        proxy = f"http://127.0.0.1:{self._server.server_port}"
        return {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "NO_PROXY": "127.0.0.1", "SSL_CERT_FILE": str(self.authority), **more}

    def as_application(self, secret=CLIENT_SECRET):
        return self.environment(AZURE_TENANT_ID=TENANT, AZURE_CLIENT_ID=CLIENT, AZURE_CLIENT_SECRET=secret)

    def answer(self, method, host, target, headers, body):
        """Status, headers and JSON."""
        url = urllib.parse.urlsplit(target)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.asked.append(f"{method} {host}{url.path}")
        if host == LOGIN:
            return self._login(method, url.path, dict(urllib.parse.parse_qsl(body.decode())))
        if host == MACHINE:
            if headers.get("metadata") != "true" or query.get("resource") != "https://vault.azure.net":
                return 400, {}, {"error": "invalid_request"}
            expires = str(int(time.time()) + 3600)
            return 200, {}, {"access_token": TOKEN, "expires_on": expires, "token_type": "Bearer", "resource": query["resource"]}
        if host != VAULT:
            return 421, {}, {}
        return self._vault(url.path.strip("/").split("/"), query, headers)

    def _login(self, method, path, form):
        right = form.get("client_secret") == CLIENT_SECRET or form.get("client_assertion") == ASSERTION
        if (method, path) != ("POST", f"/{TENANT}/oauth2/v2.0/token") or form.get("scope") != "https://vault.azure.net/.default":
            return 400, {}, {"error": "invalid_request", "error_description": "AADSTS900144: a parameter is missing", "error_codes": [900144]}
        if not right or form.get("client_id") != CLIENT:
            text = "AADSTS7000215: Invalid client secret provided. Trace ID: 0\r\nCorrelation ID: 0"
            return 401, {}, {"error": "invalid_client", "error_description": text, "error_codes": [7000215]}
        return 200, {}, {"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": TOKEN}

    def _vault(self, path, query, headers):
        def refused(status, code):
            return status, {}, {"error": {"code": code, "message": f"{code} of the test"}}

        if headers.get("authorization") != f"Bearer {TOKEN}":
            challenge = f'Bearer authorization="https://{LOGIN}/{TENANT}", resource="https://vault.azure.net"'
            return 401, {"www-authenticate": challenge}, {"error": {"code": "Unauthorized"}}
        if self.fault:
            return refused(self.fault, "Fault")
        assert path[0] == "secrets" and query["api-version"], (path, query)
        name, versions = path[1], self.versions.get(path[1], [])
        url = f"https://{VAULT}/secrets/{name}"
        if path[2:] == ["versions"]:
            if "list" in self.denied:
                return refused(403, "Forbidden")
            at = int(query.get("$skiptoken", 0))  # one a page, the newest first
            page = list(reversed(versions))[at:at + 1]
            value = [{"id": f"{url}/{version['id']}", "attributes": version["attributes"]} for version in page]
            more = at + 1 < len(versions)
            next = f"https://{self.next_host}:443/secrets/{name}/versions?api-version={query['api-version']}&$skiptoken={at + 1}"
            return 200, {}, {"value": value, "nextLink": next if more else None}
        wanted = [version for version in versions if path[2:] in ([], [version["id"]])]
        if not wanted:
            return refused(404, "SecretNotFound")
        version = wanted[-1]
        if not version["attributes"]["enabled"] or "get" in self.denied:
            return refused(403, "Forbidden")
        return 200, {}, {"value": version["value"], "id": f"{url}/{version['id']}", "attributes": version["attributes"]}

    def _certificates(self, directory):
        """The authority's file, and one with a certificate of its for every name here, and the key."""
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
        names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("authority of the test", VAULT)]
        now = datetime.datetime.now(datetime.timezone.utc)

        def issued(index, extension, critical):
            builder = x509.CertificateBuilder().subject_name(names[index]).issuer_name(names[0]).public_key(keys[index].public_key())
            builder = builder.serial_number(index + 1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
            return builder.add_extension(extension, critical).sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

        self.authority.write_bytes(issued(0, x509.BasicConstraints(ca=True, path_length=None), True))
        own = directory / "azure.pem"
        key = keys[1].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        own.write_bytes(issued(1, x509.SubjectAlternativeName([x509.DNSName(VAULT), x509.DNSName(LOGIN)]), False) + key)
        return own

    def __enter__(self):
        azure = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            tunnel = None

            def do_CONNECT(self):
                self.tunnel = self.path.rpartition(":")[0]
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                self.connection = azure._context.wrap_socket(self.connection, server_side=True)
                self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
                self.close_connection = False

            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                host = self.tunnel or urllib.parse.urlsplit(self.path).hostname
                status, headers, page = azure.answer(self.command, host, self.path, self.headers, body)
                text = json.dumps(page).encode()
                self.send_response(status)
                for name, value in {**headers, "content-type": "application/json", "content-length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
