//! `placet keygen`: a private key and a certificate for it, ready for a `file` store.
//!
//! Existing files are never overwritten: a key that is gone can't be brought back, and tokens it
//! signed would stop verifying.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::clock::Timestamp;
use crate::keys::{self, Algorithm};

/// Makes a private key and a self-signed certificate for it.
#[derive(Debug, clap::Args)]
pub(super) struct Keygen {
    /// The signature algorithm the key is for: RS256 to RS512, PS256 to PS512, ES256, ES384, EdDSA.
    #[arg(long, default_value = "ES256")]
    pub algorithm: Algorithm,
    /// The directory to write to; made if it isn't there.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// The key's name: of the files `NAME.pem` and `NAME.crt`, and in the certificate.
    #[arg(long)]
    pub name: String,
}

/// Makes the key, writes `NAME.pem` (mode 0600) and `NAME.crt`, and says so on stdout.
///
/// # Errors
/// If the name is unusable, one of the files is there already, or can't be written.
pub(super) fn run(args: &Keygen, now: Timestamp) -> anyhow::Result<()> {
    make(args, now, &mut io::stdout().lock())
}

fn make(args: &Keygen, now: Timestamp, stdout: &mut dyn Write) -> anyhow::Result<()> {
    let made = keys::generate(args.algorithm, &args.name, now)?;
    fs::create_dir_all(&args.out)
        .with_context(|| format!("can't make the directory `{}`", args.out.display()))?;
    let key = args.out.join(format!("{}.pem", args.name));
    let certificate = args.out.join(format!("{}.crt", args.name));
    // Both are claimed before either is written, so that no half of a pair is left behind.
    let key_file = create(&key, 0o600)?;
    let certificate_file = create(&certificate, 0o644).inspect_err(|_| {
        let _ = fs::remove_file(&key);
    })?;
    write(key_file, &key, made.private_key_pem.expose())?;
    write(certificate_file, &certificate, &made.certificate_pem)?;
    report(args, &key, &certificate, stdout).context("can't write to stdout")
}

fn create(path: &Path, mode: u32) -> anyhow::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|error| {
        let path = path.display();
        match error.kind() {
            ErrorKind::AlreadyExists => {
                anyhow!("`{path}` is there already: remove it first, or choose another name")
            }
            _ => anyhow!(error).context(format!("can't create `{path}`")),
        }
    })
}

fn write(mut file: File, path: &Path, text: &str) -> anyhow::Result<()> {
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("can't write `{}`", path.display()))
}

fn report(args: &Keygen, key: &Path, certificate: &Path, stdout: &mut dyn Write) -> io::Result<()> {
    writeln!(stdout, "private key  {} (mode 0600)", key.display())?;
    writeln!(stdout, "certificate  {} (CN={}, one year)", certificate.display(), args.name)?;
    writeln!(stdout)?;
    writeln!(stdout, "To sign with it, in placet.yaml:")?;
    writeln!(stdout, "  secretStores:")?;
    writeln!(
        stdout,
        "    - {{id: files, type: file, default: true, details: {{directory: {}}}}}",
        args.out.display()
    )?;
    writeln!(stdout, "  scopes:")?;
    writeln!(stdout, "    - jwtSigning: {{keyName: {}, algorithm: {}}}", args.name, args.algorithm)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

    fn args(out: PathBuf) -> Keygen {
        Keygen { algorithm: Algorithm::EdDsa, out, name: "orders".to_owned() }
    }

    #[test]
    fn writes_a_private_key_only_its_owner_can_read() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("new/keys");
        let mut stdout = Vec::new();
        make(&args(out.clone()), NOW, &mut stdout).unwrap();
        let mode = fs::metadata(out.join("orders.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(fs::read_to_string(out.join("orders.pem")).unwrap().contains("BEGIN PRIVATE KEY"));
        assert!(fs::read_to_string(out.join("orders.crt")).unwrap().contains("BEGIN CERTIFICATE"));
        let stdout = String::from_utf8(stdout).unwrap();
        assert!(stdout.contains("orders.pem") && stdout.contains("keyName: orders"), "{stdout}");
        assert!(!stdout.contains("BEGIN"), "the key itself is not shown");
    }

    #[test]
    fn overwrites_nothing_and_leaves_nothing_half_done() {
        for existing in ["orders.pem", "orders.crt"] {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join(existing), "old").unwrap();
            let error = make(&args(directory.path().to_owned()), NOW, &mut Vec::new()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(existing) && text.contains("remove it"), "{text}");
            assert_eq!(fs::read_to_string(directory.path().join(existing)).unwrap(), "old");
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_name_is_not_a_path() {
        let directory = tempfile::tempdir().unwrap();
        let args = Keygen { name: "../orders".to_owned(), ..args(directory.path().to_owned()) };
        assert!(make(&args, NOW, &mut Vec::new()).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
