//! Connections for gRPC: HTTP/2 with prior knowledge, over TCP, TLS or a Unix socket. The other end is asked
//! now and then whether it is still there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tower::Service;

use crate::fips;

/// How often the other end is asked whether it is there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);

/// Where somebody listens.
#[derive(Clone)]
pub struct Place {
    address: Address,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

#[derive(Clone, Debug)]
enum Address {
    Tcp(String),
    Unix(PathBuf),
}

/// Why no place is meant.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum PlaceError {
    #[error("`{0}` is no address: write `127.0.0.1:9191`, `host:9191` or `unix:/run/placet.sock`")]
    Address(String),
    #[error("can't read `{}` as PEM: {problem}", path.display())]
    Pem { path: PathBuf, problem: pem::Error },
    #[error("`{}` holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    #[error("`{0}` is no name that a certificate can be for")]
    ServerName(String),
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] rustls::Error),
    #[error(transparent)]
    NotFips(#[from] fips::NotInForce),
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum ConnectError {
    #[error("can't connect to `{address}`: {problem}")]
    Io { address: String, problem: io::Error },
    #[error("`{address}` does not speak HTTP/2: {problem}")]
    Http { address: String, problem: hyper::Error },
}

impl Place {
    /// The place that `address` names: `HOST:PORT` or `unix:PATH`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn parse(address: &str) -> Result<Self, PlaceError> {
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
        let parsed = match address.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Some(Address::Unix(PathBuf::from(path))),
            Some(_) => None,
            None => {
                let is_host = |(host, port): &(&str, &str)| !host.is_empty() && is_port(port);
                let found = address.rsplit_once(':').filter(is_host);
                found.map(|_| Address::Tcp(address.to_owned()))
            }
        };
        match parsed {
            Some(address) => Ok(Self { address, tls: None }),
            None => Err(PlaceError::Address(address.escape_debug().to_string())),
        }
    }

    /// The same over TLS: the authorities in `ca_file` are trusted to say who `server_name` is, and
    /// `identity` (a certificate chain and its key) is shown if asked for.
    ///
    /// # Errors
    /// If a file can't be used.
    pub fn over_tls(
        self,
        ca_file: &Path,
        server_name: &str,
        identity: Option<(&Path, &Path)>,
    ) -> Result<Self, PlaceError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca_file)? {
            roots.add(certificate)?;
        }
        let config = client_config(roots, identity)?;
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| PlaceError::ServerName(server_name.escape_debug().to_string()))?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { tls: Some((connector, name)), ..self })
    }

    pub(crate) async fn connect(&self) -> Result<Connection, ConnectError> {
        let failed = |problem| ConnectError::Io { address: self.name(), problem };
        match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                self.secure(stream).await
            }
            Address::Unix(path) => {
                self.secure(UnixStream::connect(path).await.map_err(failed)?).await
            }
        }
    }

    async fn secure<S>(&self, stream: S) -> Result<Connection, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some((connector, name)) = &self.tls else { return self.shake_hands(stream).await };
        let failed = |problem| ConnectError::Io { address: self.name(), problem };
        let stream = connector.connect(name.clone(), stream).await.map_err(failed)?;
        self.shake_hands(stream).await
    }

    async fn shake_hands<S>(&self, stream: S) -> Result<Connection, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        builder.keep_alive_interval(PING).keep_alive_timeout(PONG).keep_alive_while_idle(true);
        let shaken = builder.handshake(TokioIo::new(stream)).await;
        let failed = |problem| ConnectError::Http { address: self.name(), problem };
        let (sender, connection) = shaken.map_err(failed)?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }

    fn name(&self) -> String {
        match &self.address {
            Address::Tcp(address) => address.clone(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

fn client_config(
    roots: RootCertStore,
    identity: Option<(&Path, &Path)>,
) -> Result<ClientConfig, PlaceError> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let of_key = |problem| PlaceError::Pem { path: key.to_owned(), problem };
            let key = PrivateKeyDer::from_pem_file(key).map_err(of_key)?;
            config.with_client_auth_cert(certificates(chain)?, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    fips::require_of(config.fips(), "a client's TLS")?;
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PlaceError> {
    let failed = |problem| PlaceError::Pem { path: path.to_owned(), problem };
    let found = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if found.is_empty() {
        return Err(PlaceError::NoCertificate(path.to_owned()));
    }
    Ok(found)
}

/// One connection; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection(SendRequest<Body>);

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::{self, Authority};

    /// One that was not would be refused, with the feature: see `fips`.
    #[test]
    fn tls_is_of_the_module_if_and_only_if_the_feature_is_on() {
        let folder = tempfile::tempdir().unwrap();
        fixture::write(folder.path(), &Authority::new("ours").identity(&[]));
        let (chain, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        for identity in [None, Some((chain.as_path(), key.as_path()))] {
            let config = client_config(RootCertStore::empty(), identity).unwrap();
            assert_eq!(config.fips(), fips::IS_ON);
        }
    }
}
