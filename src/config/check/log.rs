//! The decision log: where lines go, and what they show.

mod remote;

use std::collections::BTreeSet;
use std::path::Path;

use super::credential::credential;
use super::listen::mode_of;
use super::{joined, refuse_foreign};
use crate::audit::{
    DEFAULT_BUFFER_BYTES, DEFAULT_FILES, DEFAULT_MODE, FileSettings, HashKey, LogSettings,
    MASKABLE, Mask, Masking, SOURCE_IP, Sampling, Shape, Sink, WhenFull,
};
use crate::config::raw;
use crate::config::report::Report;
use crate::secrets::Source;

/// With less, a few long lines would fill it.
const LEAST_BUFFER: usize = 64 * 1024;

/// More than this is a database.
const MOST_BUFFER: usize = 1 << 30;

/// Shorter keys can be guessed.
const LEAST_KEY: usize = 16;

pub(super) fn check(
    raw: &raw::DecisionLog,
    base: &Path,
    report: &mut Report,
) -> Option<LogSettings> {
    let instance_name = raw.instance_name.clone().unwrap_or_else(host_name);
    let buffer_bytes = raw.buffer_bytes.unwrap_or(DEFAULT_BUFFER_BYTES);
    if !(LEAST_BUFFER..=MOST_BUFFER).contains(&buffer_bytes) {
        let what = format!("is not between {LEAST_BUFFER} and {MOST_BUFFER} bytes");
        report.error("decisionLog.bufferBytes", what);
    }
    let sink = sink(raw.sink.as_ref(), (base, buffer_bytes, &instance_name), report);
    if matches!(sink, Some(Sink::None)) {
        refuse_foreign("decisionLog", &of_lines(raw), "sink: none", report);
    }
    let fields = fields(raw, report);
    let masks = masks(raw, base, report);
    let sampling = sampling(raw, fields.as_ref(), report);
    Some(LogSettings {
        sink: sink?,
        when_full: match raw.when_full {
            None | Some(raw::WhenFull::Drop) => WhenFull::Drop,
            Some(raw::WhenFull::Block) => WhenFull::Block,
        },
        buffer_bytes,
        shape: Shape::new(fields?, masks?),
        sampling: sampling?,
        organization: raw.organization.clone().unwrap_or_default(),
        instance_name,
    })
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().ok();
    name.and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// What is of no use without lines.
fn of_lines(raw: &raw::DecisionLog) -> Vec<(&'static str, bool)> {
    vec![
        ("whenFull", raw.when_full.is_some()),
        ("sampleAllows", raw.sample_allows.is_some()),
        ("fields", raw.fields.is_some()),
        ("mask", raw.mask.is_some()),
    ]
}

fn sink(
    form: Option<&raw::SinkForm>,
    (base, buffer_bytes, instance): (&Path, usize, &str),
    report: &mut Report,
) -> Option<Sink> {
    let sink = match form {
        None => return Some(Sink::Stdout),
        Some(raw::SinkForm::Name(name)) => {
            return match name.as_str() {
                "stdout" => Some(Sink::Stdout),
                "none" => Some(Sink::None),
                name => {
                    let what = "is no sink: use stdout, none, {file: PATH}, {http: …} or {otlp: …}";
                    report.error("decisionLog.sink", format_args!("`{name}` {what}"));
                    None
                }
            };
        }
        Some(raw::SinkForm::Sink(sink)) => sink,
    };
    let around = remote::Surroundings { base, buffer_bytes, instance };
    match (&sink.file, &sink.http, &sink.otlp) {
        (Some(form), None, None) => file(form, base, report).map(Sink::File),
        (None, Some(raw), None) => {
            remote::http(raw, around, report).map(|settings| Sink::Remote(Box::new(settings)))
        }
        (None, None, Some(raw)) => {
            remote::otlp(raw, around, report).map(|settings| Sink::Remote(Box::new(settings)))
        }
        _ => {
            if !report.has("decisionLog.sink.file") {
                report.error("decisionLog.sink", "needs exactly one of file, http and otlp");
            }
            None
        }
    }
}

fn file(form: &raw::FileForm, base: &Path, report: &mut Report) -> Option<FileSettings> {
    let path = "decisionLog.sink.file";
    let plain = raw::FileSink::default();
    let (name, raw) = match form {
        raw::FileForm::Path(name) => (Some(name), &plain),
        raw::FileForm::File(raw) => (raw.path.as_ref(), raw),
    };
    let mode = raw.mode.as_deref().map_or(Ok(DEFAULT_MODE), |text| mode_of(text, "0640"));
    let mode = report.keep(format_args!("{path}.mode"), mode);
    let daily = raw.daily.unwrap_or(false);
    if raw.max_files.is_some() && raw.max_bytes.is_none() && !daily {
        let what = "needs maxBytes or daily: without them no new file is begun";
        report.error(format_args!("{path}.maxFiles"), what);
    }
    let max_files = raw.max_files.unwrap_or(DEFAULT_FILES);
    if !(2..=1000).contains(&max_files) {
        report.error(format_args!("{path}.maxFiles"), "is not between 2 and 1000");
    }
    if raw.max_bytes.is_some_and(|bytes| bytes < 4096) {
        report.error(format_args!("{path}.maxBytes"), "is less than 4096");
    }
    let name = report.required(format_args!("{path}.path"), name);
    let settings = FileSettings {
        path: joined(base, name?),
        mode: mode?,
        max_bytes: raw.max_bytes,
        daily,
        max_files,
    };
    let folder = settings.path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        let what = format!("there is no directory `{}`: make it", folder.display());
        report.for_listeners(path, what);
    }
    Some(settings)
}

/// The fields that are shown. The outer `None` is an error, the inner one says: all.
#[expect(clippy::option_option, reason = "of a faulty setting and of one that is not there")]
fn fields(raw: &raw::DecisionLog, report: &mut Report) -> Option<Option<BTreeSet<String>>> {
    let Some(listed) = &raw.fields else { return Some(None) };
    let known = Shape::names();
    let mut fields = BTreeSet::new();
    let mut is_sound = true;
    for (index, name) in listed.iter().enumerate() {
        let within = known.iter().filter(|known| {
            known
                .strip_prefix(name.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        let before = fields.len();
        fields.extend(within.cloned());
        if fields.len() == before && !fields.contains(name) {
            let path = format!("decisionLog.fields[{index}]");
            report.error(path, unknown(name, known.iter().map(String::as_str)));
            is_sound = false;
        }
    }
    if listed.is_empty() {
        report.error("decisionLog.fields", "is empty: name a field, or say `sink: none`");
    }
    is_sound.then_some(Some(fields))
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let nearest = known
        .clone()
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .min()
        .filter(|(distance, known)| *distance <= 2.max(known.len() / 3));
    match nearest {
        Some((_, nearest)) => format!("`{name}` is no such field: did you mean `{nearest}`?"),
        None => {
            let known: Vec<&str> = known.collect();
            format!("`{name}` is no such field: use one of `{}`", known.join("`, `"))
        }
    }
}

fn masks(raw: &raw::DecisionLog, base: &Path, report: &mut Report) -> Option<Vec<Mask>> {
    let rules = raw.mask.as_deref().unwrap_or_default();
    let key = hash_key(raw, base, report);
    let mut seen = BTreeSet::new();
    let masks: Vec<Option<Mask>> = (0..)
        .zip(rules)
        .map(|(index, rule): (usize, _)| {
            let path = format!("decisionLog.mask[{index}]");
            let name = report.required(format_args!("{path}.field"), rule.field.as_ref())?;
            let Some(field) = MASKABLE.into_iter().find(|field| field == name) else {
                let what = unknown(name, MASKABLE.into_iter());
                report.error(format_args!("{path}.field"), format_args!("{what} (only what comes from outside can be masked; leave others out by `fields`)"));
                return None;
            };
            if !seen.insert(field) {
                report.error(format_args!("{path}.field"), format_args!("`{field}` is masked already"));
            }
            let with = masking(&path, rule, field, key.as_ref(), report)?;
            Some(Mask { field, with })
        })
        .collect();
    key?;
    masks.into_iter().collect()
}

fn masking(
    path: &str,
    rule: &raw::Mask,
    field: &str,
    key: Option<&Option<HashKey>>,
    report: &mut Report,
) -> Option<Masking> {
    let path = format!("{path}.with");
    match rule.with {
        None | Some(raw::Masking::Redact) => Some(Masking::Redact),
        Some(raw::Masking::Network) if field == SOURCE_IP => Some(Masking::Network),
        Some(raw::Masking::Network) => {
            report
                .error(path, format_args!("`network` is for {SOURCE_IP} only: use hash or redact"));
            None
        }
        Some(raw::Masking::Hash) => match key? {
            Some(key) => Some(Masking::Hash(key.clone())),
            None => {
                let what = "`hash` needs hashKeyFile: without a key, whoever guesses a subject or an address finds its hash";
                report.error(path, what);
                None
            }
        },
    }
}

/// The key of hashes. The outer `None` is an error, the inner one says that there is none.
#[expect(clippy::option_option, reason = "of a faulty setting and of one that is not there")]
fn hash_key(raw: &raw::DecisionLog, base: &Path, report: &mut Report) -> Option<Option<HashKey>> {
    let given = [
        ("hashKey", raw.hash_key.as_deref()),
        ("hashKeyFile", raw.hash_key_file.as_deref()),
        ("hashKeyEnv", raw.hash_key_env.as_deref()),
    ];
    let Some((name, _)) = given.iter().find(|(_, given)| given.is_some()) else {
        return Some(None);
    };
    let path = format!("decisionLog.{name}");
    let text = match credential("decisionLog", given, base, report)? {
        Source::Literal(text) => Ok(text.expose().clone()),
        Source::Env(name) => std::env::var(&name)
            .map_err(|_| format!("the variable `{name}` is not set, or not UTF-8")),
        Source::File(file) => std::fs::read_to_string(&file)
            .map_err(|error| format!("can't read `{}`: {error}", file.display())),
    };
    let text = text.map(zeroize::Zeroizing::new);
    let key = text.and_then(|text| match text.trim() {
        key if key.len() >= LEAST_KEY => Ok(HashKey::new(key)),
        _ => {
            Err(format!("has less than {LEAST_KEY} characters: `openssl rand -hex 32` makes a key"))
        }
    });
    // Only who logs needs it.
    Some(Some(key.unwrap_or_else(|what| {
        report.for_listeners(path, what);
        HashKey::new("")
    })))
}

/// Which allows are logged. The outer `None` is an error, the inner one says: all.
#[expect(clippy::option_option, reason = "of a faulty setting and of one that is not there")]
fn sampling(
    raw: &raw::DecisionLog,
    fields: Option<&Option<BTreeSet<String>>>,
    report: &mut Report,
) -> Option<Option<Sampling>> {
    let Some(share) = raw.sample_allows else { return Some(None) };
    let path = "decisionLog.sampleAllows";
    if raw.when_full == Some(raw::WhenFull::Block) {
        report.error(
            path,
            "leaves decisions out, and `whenFull: block` is to leave none: remove one of them",
        );
    }
    if let Some(Some(fields)) = fields
        && !fields.contains("sampleRate")
    {
        let what = "needs `sampleRate` among the fields: without it counts can't be scaled";
        report.error(path, what);
    }
    let sampling = Sampling::new(share);
    let sampling = sampling.ok_or_else(|| format!("`{share}` is not above 0 and up to 1"));
    // All is the same as none left out.
    report.keep(path, sampling).map(|sampling| Some(sampling).filter(|_| share < 1.0))
}
