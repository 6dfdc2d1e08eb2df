//! Which allows are logged, where not all are.
//!
//! By the id that the proxy gave the request, so that one request is logged by all that see it or by none;
//! denials always are. Counts are scaled by the record's `sampleRate`, and metrics count everything.

/// The share of allows that is logged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling(f64);

impl Sampling {
    /// A share above 0 and up to 1.
    pub fn new(share: f64) -> Option<Self> {
        (share > 0.0 && share <= 1.0).then_some(Self(share))
    }

    pub(super) const fn share(self) -> f64 {
        self.0
    }

    /// Whether what has this id is logged.
    pub(super) fn takes(self, id: &str) -> bool {
        let hash = blake3::hash(id.as_bytes());
        let [a, b, c, d, ..] = *hash.as_bytes();
        let place = f64::from(u32::from_le_bytes([a, b, c, d]));
        place < self.0 * (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_taken_and_the_same_each_time() {
        for share in [0.01, 0.1, 0.5, 1.0] {
            let sampling = Sampling::new(share).unwrap();
            let ids = (0..20_000).map(|number| format!("request-{number}"));
            let taken: Vec<_> = ids.filter(|id| sampling.takes(id)).collect();
            let expected = share * 20_000.0;
            let found = f64::from(u32::try_from(taken.len()).unwrap());
            assert!((found - expected).abs() <= 0.1 * expected, "{share}: {found}");
            assert!(taken.iter().all(|id| sampling.takes(id)));
        }
    }

    #[test]
    fn no_share_and_more_than_all_are_no_samplings() {
        for share in [0.0, -0.1, 1.01, f64::NAN, f64::INFINITY] {
            assert_eq!(Sampling::new(share), None, "{share}");
        }
    }
}
