//! Header fields, side by side in two texts: a request has some twenty, and each is read at most once.

use std::iter;

/// Header fields in the order they arrived, names in lower case, duplicates kept.
///
/// Envoy's plain `headers` map joins duplicates with a comma before we see them; a reader that
/// needs exactly one value must therefore also refuse commas where its value can't hold one.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    names: String,
    values: Vec<u8>,
    /// Where the name and the value of each field end; they begin where those before it end.
    ends: Vec<(usize, usize)>,
}

impl Headers {
    /// No fields, with room for `count` of these lengths in all.
    pub fn with_capacity(count: usize, names: usize, values: usize) -> Self {
        Self {
            names: String::with_capacity(names),
            values: Vec::with_capacity(values),
            ends: Vec::with_capacity(count),
        }
    }

    /// Adds a field; the name is folded to lower case.
    pub fn push(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let start = self.names.len();
        self.names.push_str(name);
        self.names.get_mut(start..).into_iter().for_each(str::make_ascii_lowercase);
        self.values.extend_from_slice(value.as_ref());
        self.ends.push((self.names.len(), self.values.len()));
    }

    /// Every value of `name` (in lower case), in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Every field, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let starts = iter::once((0, 0)).chain(self.ends.iter().copied());
        starts.zip(&self.ends).filter_map(|((name, value), ends)| {
            Some((self.names.get(name..ends.0)?, self.values.get(value..ends.1)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_come_out_as_they_went_in(fields in prop::collection::vec((".{0,9}", prop::collection::vec(any::<u8>(), 0..9)), 0..9)) {
            let mut headers = Headers::with_capacity(1, 2, 3);
            fields.iter().for_each(|(name, value)| headers.push(name, value));
            let lower: Vec<_> = fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
            let found: Vec<_> = headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
            prop_assert_eq!(&found, &lower);
            for (name, _) in &lower {
                let same = lower.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_slice());
                prop_assert!(headers.all(name).eq(same));
            }
        }
    }
}
