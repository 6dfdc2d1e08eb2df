"""A certificate authority whose certificates hold SPIFFE ids, or other names."""

import base64
import datetime
import hashlib
import ipaddress
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Authority:
    def __init__(self, directory):
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._issue(self._key, "authority", None)
        self.file = directory / "authority.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def identity(self, name, *uris, dns=(), ips=()):
        """Writes <name>.pem and <name>.key, with these alternative names; returns the certificate's x5t#S256."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
        names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        certificate = self._issue(key, name, names)
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

    def _issue(self, key, name, names):
        now = datetime.datetime.now(datetime.timezone.utc)
        common_name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
        builder = x509.CertificateBuilder().subject_name(common_name(name)).issuer_name(common_name("authority"))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(minutes=1)).not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())
