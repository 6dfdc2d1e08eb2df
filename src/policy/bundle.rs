//! A policy bundle: the files of a directory, or of a `.tar.gz` as `opa build` makes it.
//!
//! A bundle is read whole and bounded: so many entries, so many bytes, unpacked. In an archive a
//! name that is absolute or climbs, a link, or anything else that is no file or directory is
//! refused, for we need none of them. In a directory, names that begin with a dot are passed over
//! (`..data` of a Kubernetes volume is one), and links to files are followed: they are the
//! operator's own.

mod fetch;
mod signature;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use serde_json::Value;

pub use self::fetch::{Build, BundleSettings, BundleTask};
pub use self::signature::{SignatureError, Verification};
use crate::json::{self, JsonFault};

/// How many entries a bundle has at most.
const ENTRY_LIMIT: usize = 10_000;

/// How many bytes all files of a bundle have at most, unpacked.
const SIZE_LIMIT: u64 = 64 * 1024 * 1024;

/// How deep directories nest at most.
const DEPTH_LIMIT: usize = 32;

const MANIFEST: &str = ".manifest";

/// The files of a bundle, by their names with `/` between the parts, and its manifest.
#[derive(Debug, Default)]
pub struct Bundle {
    files: BTreeMap<String, Vec<u8>>,
    manifest: Option<Manifest>,
}

/// What a bundle says of itself.
#[derive(Debug, Default)]
pub struct Manifest {
    /// What the bundle's author calls this state of it.
    pub revision: String,
    /// The paths under which all its policies and data must be; an empty one is everything.
    pub roots: Vec<String>,
    /// The Rego version of its files, 0 or 1; absent when it does not say.
    pub rego_version: Option<u8>,
    /// The Rego version of single files: a name or a pattern with `*`, and 0 or 1.
    pub file_versions: Vec<(String, u8)>,
}

/// Why something is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is not signed as it must be.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It can't be read.
    #[error("can't read `{}`: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no gzip-compressed tar.
    #[error("it is not a tar.gz: {0}")]
    Archive(io::Error),
    /// A name that could leave the bundle.
    #[error("the entry `{0}` is absolute or climbs out: name files within the bundle")]
    Climbs(String),
    /// A link, device or the like.
    #[error("the entry `{0}` is neither a file nor a directory: a bundle holds nothing else")]
    NotFile(String),
    /// One name twice.
    #[error("the entry `{0}` stands twice")]
    Twice(String),
    /// Too many entries.
    #[error("it has more than {ENTRY_LIMIT} entries")]
    Entries,
    /// Too many bytes.
    #[error("its files have more than {} MiB", SIZE_LIMIT / 1024 / 1024)]
    Size,
    /// Directories nest too deep.
    #[error("its directories nest deeper than {DEPTH_LIMIT} levels")]
    Depth,
    /// The manifest is no JSON object.
    #[error("the {MANIFEST} {0}")]
    ManifestJson(JsonFault),
    /// A member of the manifest that we can't follow.
    #[error("the {MANIFEST}'s `{name}` {problem}")]
    Manifest {
        /// The member.
        name: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Bundle {
    /// Unpacks a `.tar.gz`.
    ///
    /// # Errors
    /// When it is none, is too large, or holds what no bundle holds.
    pub fn unpack(archive: &[u8]) -> Result<Self, BundleError> {
        Files::unpack(archive)?.bundle()
    }

    /// Unpacks a `.tar.gz`, and uses it if it is signed as `verification` asks.
    ///
    /// # Errors
    /// As [`Self::unpack`], and when it is not what was signed.
    pub fn unpack_signed(archive: &[u8], verification: &Verification) -> Result<Self, BundleError> {
        let files = Files::unpack(archive)?;
        verification.check(&files.files)?;
        files.bundle()
    }

    /// Reads the files under `directory`.
    ///
    /// # Errors
    /// When they can't be read or are too large.
    pub fn directory(directory: &Path) -> Result<Self, BundleError> {
        let mut files = Files::default();
        walk(directory, "", 0, &mut files)?;
        files.bundle()
    }

    /// One file alone.
    ///
    /// # Errors
    /// When it can't be read or is too large.
    pub fn file(path: &Path) -> Result<Self, BundleError> {
        let mut files = Files::default();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        read(path, name.unwrap_or_default(), &mut files)?;
        files.bundle()
    }

    /// What is in the file `name`.
    pub fn file_named(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// Every file but the manifest and the signature, by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// The manifest, if there is one.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }
}

impl Manifest {
    fn parse(text: &[u8]) -> Result<Self, BundleError> {
        let members = json::object(text).map_err(BundleError::ManifestJson)?;
        let wrong = |name, problem| BundleError::Manifest { name, problem };
        let mut manifest = Self { roots: vec![String::new()], ..Self::default() };
        for (name, value) in &members {
            match name.as_str() {
                "revision" => {
                    let text = value.as_str().ok_or(wrong("revision", "is not a text"))?;
                    text.clone_into(&mut manifest.revision);
                }
                "roots" => {
                    let roots = value.as_array().ok_or(wrong("roots", "is not a list"))?;
                    let roots = roots.iter().map(|root| Some(root.as_str()?.trim_matches('/')));
                    let roots: Option<Vec<_>> = roots.collect();
                    let roots = roots.ok_or(wrong("roots", "is not a list of texts"))?;
                    manifest.roots = roots.into_iter().map(str::to_owned).collect();
                }
                "rego_version" => {
                    let version = version(value).ok_or(wrong("rego_version", "is not 0 or 1"))?;
                    manifest.rego_version = Some(version);
                }
                "file_rego_versions" => {
                    let wrong = || wrong("file_rego_versions", "is not a map of 0 and 1");
                    let versions = value.as_object().ok_or_else(wrong)?.iter();
                    let versions =
                        versions.map(|(file, value)| Some((file.clone(), version(value)?)));
                    manifest.file_versions = versions.collect::<Option<_>>().ok_or_else(wrong)?;
                }
                "wasm" if value.as_array().is_none_or(|list| !list.is_empty()) => {
                    return Err(wrong("wasm", "names compiled policies: bundle the .rego files"));
                }
                _ => {}
            }
        }
        Ok(manifest)
    }

    /// The Rego version the manifest gives to `file`, if it gives one.
    pub fn version_of(&self, file: &str) -> Option<u8> {
        let mut named = self.file_versions.iter();
        let named = named.find(|(pattern, _)| matches(pattern.trim_start_matches('/'), file));
        named.map(|(_, version)| *version).or(self.rego_version)
    }

    /// Whether what is at `path` is within the roots.
    pub fn owns(&self, path: &[String]) -> bool {
        self.roots.iter().any(|root| {
            let mut parts = root.split('/').filter(|part| !part.is_empty());
            let mut path = path.iter();
            parts.all(|part| path.next().is_some_and(|own| own == part))
        })
    }
}

fn version(value: &Value) -> Option<u8> {
    value.as_u64().filter(|version| *version <= 1).and_then(|version| u8::try_from(version).ok())
}

/// A pattern's `*` stands for anything within one part of a name.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.split('/'), name.split('/'));
    pattern.clone().count() == name.clone().count()
        && pattern.zip(name).all(|(pattern, part)| match pattern.split_once('*') {
            None => pattern == part,
            Some((start, end)) => part.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
        })
}

/// What has been read of a bundle.
#[derive(Default)]
struct Files {
    files: BTreeMap<String, Vec<u8>>,
    entries: usize,
    size: u64,
}

enum ReadFault {
    Io(io::Error),
    Bundle(BundleError),
}

impl ReadFault {
    fn into(self, io: impl FnOnce(io::Error) -> BundleError) -> BundleError {
        match self {
            Self::Io(error) => io(error),
            Self::Bundle(error) => error,
        }
    }
}

impl Files {
    fn unpack(archive: &[u8]) -> Result<Self, BundleError> {
        let mut files = Self::default();
        // Beside the files there are headers and padding; no archive needs more of those.
        let unpacked = GzDecoder::new(archive).take(SIZE_LIMIT.saturating_mul(2));
        let mut archive = tar::Archive::new(unpacked);
        for entry in archive.entries().map_err(BundleError::Archive)? {
            let mut entry = entry.map_err(BundleError::Archive)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let kind = entry.header().entry_type();
            let name = within(&name)?;
            files.count()?;
            if kind.is_dir() || kind == tar::EntryType::XGlobalHeader {
                continue;
            }
            if !kind.is_file() {
                return Err(BundleError::NotFile(name));
            }
            files.add(name, &mut entry).map_err(|fault| fault.into(BundleError::Archive))?;
        }
        Ok(files)
    }

    fn count(&mut self) -> Result<(), BundleError> {
        self.entries = self.entries.saturating_add(1);
        if self.entries > ENTRY_LIMIT { Err(BundleError::Entries) } else { Ok(()) }
    }

    fn add(&mut self, name: String, content: &mut impl Read) -> Result<(), ReadFault> {
        let left = SIZE_LIMIT.saturating_sub(self.size);
        let mut bytes = Vec::new();
        content.take(left.saturating_add(1)).read_to_end(&mut bytes).map_err(ReadFault::Io)?;
        self.size = self.size.saturating_add(bytes.len() as u64);
        if self.size > SIZE_LIMIT {
            return Err(ReadFault::Bundle(BundleError::Size));
        }
        if self.files.contains_key(&name) {
            return Err(ReadFault::Bundle(BundleError::Twice(name)));
        }
        self.files.insert(name, bytes);
        Ok(())
    }

    fn bundle(mut self) -> Result<Bundle, BundleError> {
        self.files.remove(signature::SIGNATURES);
        let manifest =
            self.files.remove(MANIFEST).map(|text| Manifest::parse(&text)).transpose()?;
        Ok(Bundle { files: self.files, manifest })
    }
}

/// A name of an archive, without a leading `./` or `/` as `opa build` writes it.
fn within(name: &str) -> Result<String, BundleError> {
    let relative = name.strip_prefix('/').unwrap_or(name);
    let mut parts = Vec::new();
    for component in Path::new(relative).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::CurDir => {}
            _ => return Err(BundleError::Climbs(name.escape_debug().take(200).collect())),
        }
    }
    Ok(parts.join("/"))
}

fn walk(folder: &Path, prefix: &str, depth: usize, files: &mut Files) -> Result<(), BundleError> {
    if depth > DEPTH_LIMIT {
        return Err(BundleError::Depth);
    }
    let fail = |source| BundleError::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            continue;
        };
        if name.starts_with('.') && !(prefix.is_empty() && name == MANIFEST) {
            continue;
        }
        files.count()?;
        let full = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if path.is_dir() {
            // A link to a directory may lead back here.
            if !path.is_symlink() {
                walk(&path, &full, depth.saturating_add(1), files)?;
            }
        } else {
            read(&path, full, files)?;
        }
    }
    Ok(())
}

fn read(path: &Path, name: String, files: &mut Files) -> Result<(), BundleError> {
    let fail = |source| BundleError::Read { path: path.to_owned(), source };
    let mut file = fs::File::open(path).map_err(fail)?;
    files.add(name, &mut file).map_err(|fault| fault.into(fail))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_ustar();
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    fn file<'a>(name: &'a str, content: &'a str) -> (&'a str, tar::EntryType, &'a [u8]) {
        (name, tar::EntryType::Regular, content.as_bytes())
    }

    #[test]
    fn an_archive_is_read_as_opa_writes_it() {
        let manifest = r#"{"revision":"r1","roots":["envoy/authz","roles"],"rego_version":0,
            "file_rego_versions":{"/a/*.rego":1},"metadata":{}}"#;
        let bundle = Bundle::unpack(&archive(&[
            ("/", tar::EntryType::Directory, b""),
            file("/.manifest", manifest),
            file("/a/p.rego", "package a"),
            file("./data.json", "{}"),
        ]))
        .unwrap();
        let names: Vec<_> = bundle.files().map(|(name, _)| name).collect();
        assert_eq!(names, ["a/p.rego", "data.json"]);
        let manifest = bundle.manifest().unwrap();
        assert_eq!(manifest.revision, "r1");
        assert_eq!(manifest.version_of("a/p.rego"), Some(1));
        assert_eq!(manifest.version_of("b/p.rego"), Some(0));
        let path = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
        assert!(manifest.owns(&path("envoy/authz")) && manifest.owns(&path("envoy/authz/x")));
        assert!(!manifest.owns(&path("envoy")) && !manifest.owns(&path("envoy/authzx")));
    }

    #[test]
    fn what_leaves_the_bundle_or_is_no_file_is_refused() {
        for name in ["../x.rego", "a/../../x.rego", "/../x", "a/.."] {
            let refused = Bundle::unpack(&archive(&[file(name, "")])).unwrap_err();
            assert!(matches!(refused, BundleError::Climbs(_)), "{name}: {refused}");
        }
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Fifo] {
            let refused = Bundle::unpack(&archive(&[("a", kind, b"")])).unwrap_err();
            assert!(matches!(refused, BundleError::NotFile(_)), "{kind:?}: {refused}");
        }
        let twice = archive(&[file("a", ""), file("./a", "")]);
        assert!(matches!(Bundle::unpack(&twice), Err(BundleError::Twice(_))));
        assert!(matches!(Bundle::unpack(b"package a"), Err(BundleError::Archive(_))));
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked_whole() {
        let many: Vec<_> = (0..=ENTRY_LIMIT).map(|number| number.to_string()).collect();
        let many: Vec<_> = many.iter().map(|name| file(name, "")).collect();
        assert!(matches!(Bundle::unpack(&archive(&many)), Err(BundleError::Entries)));
        let mut header = tar::Header::new_gnu();
        header.set_size(SIZE_LIMIT + 1);
        header.set_path("data.json").unwrap();
        header.set_cksum();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(header.as_bytes()).unwrap();
        io::copy(&mut io::repeat(0).take(SIZE_LIMIT + 1024), &mut encoder).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(matches!(Bundle::unpack(&bomb), Err(BundleError::Size)));
    }

    #[test]
    fn a_manifest_we_can_not_follow_is_refused() {
        for text in [
            "[]",
            r#"{"roots":"a"}"#,
            r#"{"roots":[1]}"#,
            r#"{"rego_version":2}"#,
            r#"{"file_rego_versions":{"a":"1"}}"#,
            r#"{"wasm":[{"entrypoint":"a"}]}"#,
            r#"{"revision":1}"#,
        ] {
            assert!(Bundle::unpack(&archive(&[file(".manifest", text)])).is_err(), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_kubernetes_volume_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("..2026_01_01");
        fs::create_dir_all(data.join("a")).unwrap();
        fs::write(data.join("p.rego"), "package p").unwrap();
        std::os::unix::fs::symlink("..2026_01_01", folder.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/p.rego", folder.path().join("p.rego")).unwrap();
        let bundle = Bundle::directory(folder.path()).unwrap();
        let files: Vec<_> = bundle.files().collect();
        assert_eq!(files, [("p.rego", b"package p".as_slice())]);
    }

    proptest! {
        #[test]
        fn no_archive_panics(bytes in any::<Vec<u8>>()) {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&bytes).unwrap();
            let _ = Bundle::unpack(&encoder.finish().unwrap());
            let _ = Bundle::unpack(&bytes);
        }
    }
}
