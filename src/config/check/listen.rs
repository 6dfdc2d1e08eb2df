//! The addresses to listen on.

use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

use crate::config::report::Report;
use crate::config::{Address, Listen, raw};

pub(super) fn check(raw: &raw::Listen, base: &Path, report: &mut Report) -> Option<Listen> {
    let grpc = listener("listen.grpc", raw.grpc.as_ref(), "127.0.0.1:9191", base, report);
    let http = listener("listen.http", raw.http.as_ref(), "127.0.0.1:9192", base, report);
    let admin = listener("listen.admin", raw.admin.as_ref(), "127.0.0.1:9193", base, report);
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
    path: &str,
    form: Option<&raw::ListenerForm>,
    default: &str,
    base: &Path,
    report: &mut Report,
) -> Option<Address> {
    let listener = match form {
        None => return address(path, default, None, base, report),
        Some(raw::ListenerForm::Address(text)) => {
            return address(path, text, None, base, report);
        }
        Some(raw::ListenerForm::Listener(listener)) => listener,
    };
    if listener.tls.is_some() {
        report.error(
            format_args!("{path}.tls"),
            "TLS on listeners is not in this version: listen on loopback or on a Unix socket",
        );
    }
    let mode = match &listener.mode {
        None => None,
        Some(text) => {
            let parsed = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
            let parsed =
                parsed.ok_or_else(|| format!("`{text}` is no octal mode such as \"0660\""));
            Some(report.keep(format_args!("{path}.mode"), parsed)?)
        }
    };
    let text = report.required(format_args!("{path}.address"), listener.address.as_ref())?;
    address(&format!("{path}.address"), text, mode, base, report)
}

fn address(
    path: &str,
    text: &str,
    mode: Option<u32>,
    base: &Path,
    report: &mut Report,
) -> Option<Address> {
    if let Some(socket) = text.strip_prefix("unix:") {
        if socket.is_empty() {
            report.error(path, "has no path after `unix:`");
            return None;
        }
        return Some(Address::Unix(base.join(socket), mode));
    }
    if mode.is_some() {
        report.error(path, "a mode is for a Unix socket only: remove it, or write unix:/PATH");
    }
    let resolved = text.to_socket_addrs().ok().and_then(|mut found| found.next());
    let resolved =
        resolved.ok_or_else(|| format!("`{text}` is no address: write HOST:PORT or unix:/PATH"));
    report.keep(path, resolved).map(Address::Tcp)
}
