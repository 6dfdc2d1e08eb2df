//! The addresses to listen on, and who may connect.

use std::collections::BTreeSet;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

use nix::unistd::Group;

use crate::clock::Clock;
use crate::config::report::Report;
use crate::config::{Address, Listen, ListenerSettings, SocketAccess, raw};
use crate::tls::{Protocols, Served, TlsSettings, UriSan};

pub(super) fn check(raw: &raw::Listen, base: &Path, report: &mut Report) -> Option<Listen> {
    let grpc = ("listen.grpc", "127.0.0.1:9191", Protocols::Grpc);
    let http = ("listen.http", "127.0.0.1:9192", Protocols::Http);
    let admin = ("listen.admin", "127.0.0.1:9193", Protocols::Http);
    let grpc = listener(grpc, raw.grpc.as_ref(), base, report);
    let http = listener(http, raw.http.as_ref(), base, report);
    let admin = listener(admin, raw.admin.as_ref(), base, report);
    let control = control(raw.control.as_deref(), base, report);
    Some(Listen { grpc: grpc?, http: http?, admin: admin?, control: control? })
}

/// The inner `None`: there is none to be.
#[expect(clippy::option_option, reason = "of a faulty setting and of one that is not there")]
fn control(text: Option<&str>, base: &Path, report: &mut Report) -> Option<Option<PathBuf>> {
    let Some(text) = text else { return Some(None) };
    let Some(socket) = text.strip_prefix("unix:").filter(|socket| !socket.is_empty()) else {
        let message =
            format_args!("`{text}` is no Unix socket: write unix:/PATH, never an address");
        report.error("listen.control", message);
        return None;
    };
    Some(Some(base.join(socket)))
}

fn listener(
    (path, default, protocols): (&str, &str, Protocols),
    form: Option<&raw::ListenerForm>,
    base: &Path,
    report: &mut Report,
) -> Option<ListenerSettings> {
    let plain = |address| ListenerSettings { address, tls: None };
    let listener = match form {
        None => return address(path, default, base, report).map(plain),
        Some(raw::ListenerForm::Address(text)) => {
            return address(path, text, base, report).map(plain);
        }
        Some(raw::ListenerForm::Listener(listener)) => listener,
    };
    let tls = listener.tls.as_ref();
    let tls = tls.map(|raw| self::tls(&format!("{path}.tls"), raw, protocols, base, report));
    let access = access(path, listener, report);
    let text = report.required(format_args!("{path}.address"), listener.address.as_ref());
    let address = text.and_then(|text| address(&format!("{path}.address"), text, base, report));
    let address = match address? {
        Address::Unix(socket, _) => {
            if tls.is_some() {
                let what = "is for TCP only: remove it, the socket's mode says who may connect";
                report.error(format_args!("{path}.tls"), what);
            }
            Address::Unix(socket, access?)
        }
        Address::Tcp(address) => {
            for (name, is_set) in
                [("mode", listener.mode.is_some()), ("group", listener.group.is_some())]
            {
                if is_set {
                    let what = "is for a Unix socket only: remove it, or write unix:/PATH";
                    report.error(format_args!("{path}.{name}"), what);
                }
            }
            Address::Tcp(address)
        }
    };
    Some(ListenerSettings { address, tls: tls.map_or(Some(None), |tls| tls.map(Some))? })
}

/// Who may open the Unix socket.
fn access(path: &str, raw: &raw::Listener, report: &mut Report) -> Option<SocketAccess> {
    let mode = raw.mode.as_deref();
    let mode = mode.map(|text| report.keep(format_args!("{path}.mode"), mode_of(text, "0660")));
    let group = raw.group.as_deref().and_then(|name| {
        let known = name
            .parse()
            .ok()
            .or_else(|| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()));
        if known.is_none() {
            let what = format_args!("this machine has no group `{name}`: name one of its own");
            report.for_listeners(format_args!("{path}.group"), what);
        }
        known
    });
    let mode = mode.map_or(Some(None), |mode| mode.map(Some));
    Some(SocketAccess { mode: mode?, group })
}

/// Permissions, octal as in `example`.
pub(super) fn mode_of(text: &str, example: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("`{text}` is no octal mode such as \"{example}\""))
}

fn tls(
    path: &str,
    raw: &raw::ListenerTls,
    protocols: Protocols,
    base: &Path,
    report: &mut Report,
) -> Option<TlsSettings> {
    let file = |text: &String| base.join(text);
    let certificate =
        report.required(format_args!("{path}.certificateFile"), raw.certificate_file.as_ref());
    let key = report.required(format_args!("{path}.keyFile"), raw.key_file.as_ref());
    let allowed = match &raw.allowed_uri_sans {
        None => Some(None),
        Some(texts) => {
            let path = format!("{path}.allowedUriSans");
            if raw.client_ca_file.is_none() {
                report.error(&path, "needs clientCaFile: without it no client shows a certificate");
            }
            uri_sans(&path, texts, report).map(Some)
        }
    };
    let settings = TlsSettings {
        certificate_file: file(certificate?),
        key_file: file(key?),
        client_ca_file: raw.client_ca_file.as_ref().map(file),
        allowed: allowed?,
        protocols,
    };
    match Served::read(&settings) {
        Ok(served) => {
            if let Some(warning) = served.warning(Clock::System.now()) {
                report.warning(format_args!("{path}.certificateFile"), warning);
            }
        }
        Err(faults) => faults.iter().for_each(|fault| match fault.setting() {
            Some(setting) => report.for_listeners(format_args!("{path}.{setting}"), fault),
            None => report.for_listeners(path, fault),
        }),
    }
    Some(settings)
}

/// Names of client certificates.
pub(super) fn uri_sans(
    path: &str,
    texts: &[String],
    report: &mut Report,
) -> Option<BTreeSet<UriSan>> {
    if texts.is_empty() {
        report.error(path, "is empty, so that nobody could connect: name an ID, or remove it");
        return None;
    }
    let read = (0..).zip(texts).map(|(index, text): (usize, _)| {
        report.keep(format_args!("{path}[{index}]"), UriSan::parse(text))
    });
    let read: Vec<Option<UriSan>> = read.collect();
    read.into_iter().collect()
}

fn address(path: &str, text: &str, base: &Path, report: &mut Report) -> Option<Address> {
    if let Some(socket) = text.strip_prefix("unix:") {
        if socket.is_empty() {
            report.error(path, "has no path after `unix:`");
            return None;
        }
        return Some(Address::Unix(base.join(socket), SocketAccess::default()));
    }
    let resolved = text.to_socket_addrs().ok().and_then(|mut found| found.next());
    let resolved =
        resolved.ok_or_else(|| format!("`{text}` is no address: write HOST:PORT or unix:/PATH"));
    report.keep(path, resolved).map(Address::Tcp)
}
