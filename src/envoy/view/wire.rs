//! The protobuf wire format (protobuf.dev, "Encoding"), as far as Envoy's message uses it: numbers and
//! bytes. Anything else, and what does not hold together, is `None`.

/// A field's value, of the two kinds that Envoy's message has.
#[derive(Clone, Copy)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// What is left of a message.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next field's number, below 16, and value.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "a message has 50 fields, and the call costs as much as reading one"
    )]
    pub(super) fn next(&mut self) -> Option<(u8, Field<'a>)> {
        let (&key, rest) = self.0.split_first()?;
        self.0 = rest;
        // A larger number takes more than one byte.
        let field = match key & 0x87 {
            0 => Field::Number(self.varint()?),
            2 => Field::Bytes(self.bytes()?),
            _ => return None,
        };
        Some((key >> 3, field))
    }

    #[inline]
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    #[inline]
    fn varint(&mut self) -> Option<u64> {
        match self.0 {
            [byte @ ..0x80, rest @ ..] => {
                self.0 = rest;
                Some((*byte).into())
            }
            [low, high @ ..0x80, rest @ ..] => {
                self.0 = rest;
                Some(u64::from(*low & 0x7f) | u64::from(*high) << 7)
            }
            _ => self.long_varint(),
        }
    }

    #[cold]
    fn long_varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}
