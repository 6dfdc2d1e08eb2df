//! What each metric is called, and what it tells; those of the surroundings stand beside their counters.

use super::Inner;

impl Inner {
    /// All of them, each by its name.
    pub(super) fn registered(mut self) -> Self {
        self.register_settings();
        let registry = &mut self.registry;
        self.surroundings.register(registry);
        registry.register(
            "stage_duration_seconds",
            "Time that each stage of deciding took (route, identity, policy, entitlements, token); not of decisions that are used again",
            self.stage_duration.clone(),
        );
        registry.register(
            "decisions",
            "Decisions by scope, outcome (allow, deny, bypass; dry_run: a denial let pass) and reason",
            self.decisions.clone(),
        );
        registry.register(
            "check_duration_seconds",
            "Time from the arrival of a check to its answer",
            self.check_duration.clone(),
        );
        registry.register(
            "cache_hits",
            "Looks into a cache that found what they looked for",
            self.cache_hits.clone(),
        );
        registry.register(
            "cache_misses",
            "Looks into a cache that found nothing, or nothing that still counts",
            self.cache_misses.clone(),
        );
        registry.register(
            "signing_key_age_seconds",
            "Age of a scope's signing key, from its creation in the secret store where known",
            self.key_age.clone(),
        );
        registry.register(
            "signing_key_seconds_left",
            "How long a scope's loaded keys may go on signing while the secret store is away",
            self.key_left.clone(),
        );
        registry.register(
            "signing_keys_shared_ids",
            "Key ids that two live versions of a scope's key have: put {{key_version}} into keyId",
            self.shared_kids.clone(),
        );
        registry.register(
            "shadow_decisions",
            "What shadow policies say (allow, deny, fault), and whether it agrees with the decision",
            self.shadow_decisions.clone(),
        );
        registry.register(
            "shadow_dropped",
            "Decisions that shadow policies were not asked about, because they were behind",
            self.shadow_dropped.clone(),
        );
        self.register_tls();
        self.register_log();
        self
    }

    /// What tells of settings, policies and the deny list.
    fn register_settings(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "reloads",
            "Settings and policies that were read again and put in force",
            self.reloads.clone(),
        );
        registry.register(
            "last_reload_successful",
            "Whether the settings as they were last written are in force",
            self.reload_succeeded.clone(),
        );
        registry.register(
            "settings_timestamp_seconds",
            "Since when the settings are in force, in Unix time",
            self.settings_since.clone(),
        );
        registry.register(
            "settings_info",
            "The revision of the settings in force, with all they name",
            self.settings.clone(),
        );
        registry.register(
            "deny_list_entries",
            "Entries of the deny list in force",
            self.deny_list_entries.clone(),
        );
        registry.register(
            "deny_list_timestamp_seconds",
            "Since when the deny list is in force, in Unix time",
            self.deny_list_since.clone(),
        );
        registry.register(
            "deny_list_failures",
            "Deny lists that could not be read; the last good one stayed in force",
            self.deny_list_failures.clone(),
        );
        registry.register(
            "reload_failures",
            "Settings or policies that did not load; the last good ones stayed in force",
            self.reload_failures.clone(),
        );
    }

    fn register_log(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "decision_log_dropped",
            "Decision log lines dropped because the sink failed or did not keep up",
            self.log_dropped.clone(),
        );
        registry.register(
            "decision_log_waits",
            "Decisions that waited for room in the decision log (whenFull: block)",
            self.log.waits.clone(),
        );
        registry.register(
            "decision_log_failures",
            "Attempts to write or send decision log lines that failed",
            self.log.failures.clone(),
        );
        registry.register(
            "decision_log_waiting_bytes",
            "Decision log lines that wait for the sink, in bytes",
            self.log.waiting.clone(),
        );
    }

    fn register_tls(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "listener_certificate_expiry_seconds",
            "How long a listener's certificate still holds; negative once it has expired",
            self.certificate_left.clone(),
        );
        registry.register(
            "listener_certificate_reload_failures",
            "Certificate files of a listener that were no good; the last good ones stayed in force",
            self.certificate_failures.clone(),
        );
        registry.register(
            "listener_tls_refused",
            "Connections that ended in the TLS handshake, by reason (certificate, protocol, deadline, overload, closed)",
            self.tls_refused.clone(),
        );
    }
}
