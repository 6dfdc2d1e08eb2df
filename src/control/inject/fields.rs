//! What can be chosen about the sidecar: in the settings of `placet-control`, and by a pod's annotations.

use tracing_subscriber::EnvFilter;

/// What the names of our labels and annotations begin with.
pub(super) const ANNOTATIONS: &str = "placet.dev/";

/// The label and annotation that ask for Placet (`true`) or opt out (`false`).
pub(super) const INJECT: &str = "placet.dev/inject";

/// The annotation of pods that were completed.
pub(super) const STATUS: &str = "placet.dev/status";

/// What is put into pods.
#[derive(Clone, Debug)]
pub struct Injection {
    /// The image, whose entry point is `placet`.
    pub image: String,
    /// The ConfigMap, in the pod's namespace, with `placet.yaml` and what that names.
    pub config_map: String,
    /// The containers that may be the proxy, which gets the socket.
    pub proxies: Vec<String>,
    /// The audience of the ServiceAccount token that is shown to Vault.
    pub vault_audience: String,
    /// The port of the settings' `listen.admin`, which probes ask.
    pub admin_port: u16,
    /// CPU that is set aside.
    pub cpu_request: Quantity,
    /// CPU that is not exceeded; `None`: no limit, so that no request waits for the next period.
    pub cpu_limit: Option<Quantity>,
    /// Memory that is set aside.
    pub memory_request: Quantity,
    /// Memory beyond which the container ends.
    pub memory_limit: Quantity,
    /// The log filter, `PLACET_LOG`.
    pub log: Option<String>,
    /// The user it runs as.
    pub user: u32,
    /// Its group and the socket's.
    pub group: u32,
    /// Whether it is a native sidecar (Kubernetes 1.29 and later), else an ordinary container.
    pub is_native: bool,
}

impl Default for Injection {
    fn default() -> Self {
        let of = |text: &str, milli| Quantity { text: text.to_owned(), milli };
        Self {
            image: concat!("placet:", env!("CARGO_PKG_VERSION")).to_owned(),
            config_map: "placet".to_owned(),
            proxies: vec!["envoy".to_owned(), "istio-proxy".to_owned()],
            vault_audience: "vault".to_owned(),
            admin_port: 9193,
            cpu_request: of("50m", 50),
            cpu_limit: None,
            memory_request: of("64Mi", 1000 * (64 << 20)),
            memory_limit: of("256Mi", 1000 * (256 << 20)),
            log: None,
            user: 65532,
            group: 9191,
            is_native: true,
        }
    }
}

/// What a pod's annotations may choose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the fields of Injection, which have it")]
pub enum Field {
    Image,
    ConfigMap,
    Proxies,
    VaultAudience,
    AdminPort,
    CpuRequest,
    CpuLimit,
    MemoryRequest,
    MemoryLimit,
    Log,
}

impl Field {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Image,
        Self::ConfigMap,
        Self::Proxies,
        Self::VaultAudience,
        Self::AdminPort,
        Self::CpuRequest,
        Self::CpuLimit,
        Self::MemoryRequest,
        Self::MemoryLimit,
        Self::Log,
    ];

    /// Its name in the settings.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::ConfigMap => "configMap",
            Self::Proxies => "proxies",
            Self::VaultAudience => "vaultAudience",
            Self::AdminPort => "adminPort",
            Self::CpuRequest => "cpuRequest",
            Self::CpuLimit => "cpuLimit",
            Self::MemoryRequest => "memoryRequest",
            Self::MemoryLimit => "memoryLimit",
            Self::Log => "log",
        }
    }

    /// The annotation that chooses it: the setting's name with hyphens.
    pub fn annotation(self) -> String {
        let mut name = ANNOTATIONS.to_owned();
        for letter in self.setting().chars() {
            if letter.is_ascii_uppercase() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// What to say of an annotation of ours that chooses nothing.
    pub(super) fn none_is_called(name: &str) -> String {
        let nearest = Self::ALL
            .map(Self::annotation)
            .into_iter()
            .chain([INJECT.to_owned()])
            .min_by_key(|known| strsim::damerau_levenshtein(known, name));
        format!("is unknown: remove it, or did you mean `{}`?", nearest.unwrap_or_default())
    }
}

impl Injection {
    /// Takes over `text` for `field`.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn set(&mut self, field: Field, text: &str) -> Result<(), String> {
        match field {
            Field::Image => self.image = image(text)?,
            Field::ConfigMap => self.config_map = object_name(text, "ConfigMap")?,
            Field::Proxies => self.proxies = containers(text)?,
            Field::VaultAudience => self.vault_audience = audience(text)?,
            Field::AdminPort => self.admin_port = port(text)?,
            Field::CpuRequest => self.cpu_request = Quantity::parse(text, "50m")?,
            Field::CpuLimit => self.cpu_limit = Some(Quantity::parse(text, "1")?),
            Field::MemoryRequest => self.memory_request = Quantity::parse(text, "64Mi")?,
            Field::MemoryLimit => self.memory_limit = Quantity::parse(text, "256Mi")?,
            Field::Log => self.log = Some(filter(text)?),
        }
        Ok(())
    }

    /// Whether what was chosen goes together.
    ///
    /// # Errors
    /// The field that is at odds with another, and why.
    pub fn check_together(&self) -> Result<(), (Field, String)> {
        let cpu = (Field::CpuLimit, self.cpu_limit.as_ref(), &self.cpu_request);
        let memory = (Field::MemoryLimit, Some(&self.memory_limit), &self.memory_request);
        for (field, limit, request) in [cpu, memory] {
            if let Some(limit) = limit.filter(|limit| limit.milli < request.milli) {
                let (limit, request) = (&limit.text, &request.text);
                return Err((
                    field,
                    format!("`{limit}` is less than the request `{request}`: raise it"),
                ));
            }
        }
        Ok(())
    }
}

/// An amount as Kubernetes writes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quantity {
    pub(super) text: String,
    milli: u128,
}

impl Quantity {
    /// Reads digits, with a fraction if need be, and a unit.
    fn parse(text: &str, example: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no quantity: write one such as `{example}`");
        let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(end).ok_or_else(wrong)?;
        let unit: u128 = match unit {
            "m" => 1,
            "" => 1000,
            "k" => 1_000_000,
            "M" => 1_000_000_000,
            "G" => 1_000_000_000_000,
            "Ki" => 1000 << 10,
            "Mi" => 1000 << 20,
            "Gi" => 1000 << 30,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let are_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let sizes = (1..=15).contains(&whole.len()) && (1..=3).contains(&fraction.len());
        if !sizes || !are_digits(whole) || !are_digits(fraction) {
            return Err(wrong());
        }
        let thousandths: u128 = format!("{whole}{fraction:0<3}").parse().map_err(|_| wrong())?;
        let milli = thousandths * unit / 1000;
        if milli == 0 {
            return Err(wrong());
        }
        Ok(Self { text: text.to_owned(), milli })
    }
}

fn image(text: &str) -> Result<String, String> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && text.len() <= 512 && text.chars().all(is_known) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no image: write NAME:TAG or NAME@DIGEST"))
    }
}

/// The name of an object of `kind` (RFC 1123 subdomain).
pub(in crate::control) fn object_name(text: &str, kind: &str) -> Result<String, String> {
    if text.len() <= 253 && text.split('.').all(is_label) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no name of a {kind}: write small letters, digits, `-` and `.`"))
    }
}

fn containers(text: &str) -> Result<Vec<String>, String> {
    let names = text.split(',').map(|name| match name.trim() {
        super::CONTAINER => Err(format!("`{}` is Placet itself: name the proxy", super::CONTAINER)),
        name if is_label(name) => Ok(name.to_owned()),
        name => Err(format!("`{name}` is no container's name: write names with `,` between them")),
    });
    names.collect()
}

/// A DNS label (RFC 1123).
fn is_label(text: &str) -> bool {
    let is_known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(is_known)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn audience(text: &str) -> Result<String, String> {
    if (1..=512).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no audience: write that of Vault's role"))
    }
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port >= 1024);
    port.ok_or_else(|| format!("`{text}` is no port from 1024 to 65535, which need no privilege"))
}

fn filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is no log filter: write `debug`, or `placet=debug,info`")),
    }
}
