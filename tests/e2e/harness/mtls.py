"""A certificate authority whose certificates hold SPIFFE ids, or other names; and mutual TLS with them."""

import base64
import copy
import datetime
import hashlib
import ipaddress
import ssl

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .envoy import DEPLOY


class Authority:
    def __init__(self, directory, name="authority"):
        self.directory, self.name = directory, name
        directory.mkdir(exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._issue(self._key, name, None)
        self.file = directory / "authority.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def identity(self, name, *uris, dns=(), ips=(), days=1):
        """Writes <name>.pem and <name>.key, with these alternative names, until that many days from now; returns the certificate's x5t#S256."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
        names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        certificate = self._issue(key, name, names, days)
        (self.directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.directory / f"{name}.key").write_bytes(private)
        digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def client(self, name):
        """A client context that shows the identity, and does not look at the server's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        return context

    def envoy_transport(self, name):
        """Envoy's transport_socket for a listener that asks for client certificates."""
        context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
        chain = {"certificate_chain": {"filename": str(self.directory / f"{name}.pem")}, "private_key": {"filename": str(self.directory / f"{name}.key")}}
        common = {"tls_certificates": [chain], "validation_context": {"trusted_ca": {"filename": str(self.file)}}}
        return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": context, "require_client_certificate": True, "common_tls_context": common}}

    def server(self, name):
        """A server context that shows the identity and asks for none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        return context

    def pair(self, name):
        """The paths of an identity's certificate and key."""
        return str(self.directory / f"{name}.pem"), str(self.directory / f"{name}.key")

    def trusting(self, other):
        """The same authority for those who trust the other one too."""
        both = copy.copy(self)
        both.file = self.directory / "both.pem"
        both.file.write_bytes(self.file.read_bytes() + other.file.read_bytes())
        return both

    def trusting_client(self, name=None):
        """A client context that verifies the server against this authority, and shows the identity if one is given."""
        context = ssl.create_default_context(cafile=self.file)
        if name:
            context.load_cert_chain(*self.pair(name))
        return context

    def envoy_cluster_transport(self, name, server, protocol="h2"):
        """The transport_socket that envoy.yaml ships as a comment, with the identity shown, and `server` wanted as the server's SPIFFE id."""
        lines = (DEPLOY / "envoy.yaml").read_text().partition("    # transport_socket:\n")
        block = [line.removeprefix("    # ") for line in "".join(lines[1:]).splitlines()]
        transport = yaml.safe_load("\n".join(block))["transport_socket"]
        common = transport["typed_config"]["common_tls_context"]
        [chain], validation = common["tls_certificates"], common["validation_context"]
        chain["certificate_chain"]["filename"], chain["private_key"]["filename"] = self.pair(name)
        validation["trusted_ca"]["filename"] = str(self.file)
        validation["match_typed_subject_alt_names"][0]["matcher"]["exact"] = server
        common["alpn_protocols"] = [protocol]
        return transport

    def _issue(self, key, name, names, days=1):
        now = datetime.datetime.now(datetime.timezone.utc)
        common_name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
        builder = x509.CertificateBuilder().subject_name(common_name(name)).issuer_name(common_name(self.name))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        end = now + datetime.timedelta(days=days)
        builder = builder.not_valid_before(min(now, end) - datetime.timedelta(minutes=1)).not_valid_after(end)
        builder = builder.add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())
