//! A settings file: it loads, or there are errors, each of one line.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use placet::config::Config;
use tempfile::TempDir;

/// Where the settings stand, beside a policy that they may name.
static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write(directory.path(), "orders.cedar", b"permit (principal, action, resource);");
    directory
});

fuzz_target!(|data: &[u8]| -> Corpus {
    // Settings name files: none of the machine's own devices is to be read.
    let text = String::from_utf8_lossy(data);
    if ["/dev", "/proc", "/sys"].iter().any(|root| text.contains(root)) {
        return Corpus::Reject;
    }
    let directory = DIRECTORY.path();
    write(directory, "placet.yaml", data);
    match Config::load(&directory.join("placet.yaml")) {
        Ok(config) => {
            assert!(config.scopes.iter().all(|scope| !scope.client_id.is_empty()));
            config.warnings.iter().for_each(|warning| check_prose(warning));
        }
        Err(errors) => {
            assert!(errors.iter().count() > 0, "refused without a word");
            errors.iter().for_each(check_prose);
        }
    }
    Corpus::Keep
});

fn check_prose(text: &str) {
    assert!(!text.is_empty() && !text.contains('\n'), "an error text is one line: {text:?}");
}

fn write(directory: &Path, name: &str, data: &[u8]) {
    std::fs::write(directory.join(name), data).expect("a file in it");
}
