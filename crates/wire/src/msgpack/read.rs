//! A reader for msgpack values (<https://github.com/msgpack/msgpack/blob/master/spec.md>), in
//! notepack's dialect.

use super::DecodeError;

/// One value; of arrays and maps only the head, their parts follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Str(&'a str),
    /// A bin, or what notepack writes for an `ArrayBuffer` or a typed array: an ext 8, 16 or 32
    /// of type 0, of whatever length.
    Bin(&'a [u8]),
    /// Number of elements, at most as many as bytes follow.
    Array(usize),
    /// Number of pairs, at most half as many as bytes follow.
    Map(usize),
    /// An extension. Of type 0 it is a fixext: with one byte notepack's `undefined`, with eight
    /// its date.
    Ext(i8, &'a [u8]),
}

/// Reads values from the front of a message.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(super) fn value(&mut self) -> Result<Value<'a>, DecodeError> {
        let [marker] = self.fixed()?;
        Ok(match marker {
            0x00..=0x7f => Value::Unsigned(marker.into()),
            0x80..=0x8f => self.map(usize::from(marker & 0x0f))?,
            0x90..=0x9f => self.array(usize::from(marker & 0x0f))?,
            0xa0..=0xbf => self.text(usize::from(marker & 0x1f))?,
            0xc0 => Value::Nil,
            0xc1 => return Err(DecodeError::InvalidValue),
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0xc4 => Value::Bin(self.sized::<1>()?),
            0xc5 => Value::Bin(self.sized::<2>()?),
            0xc6 => Value::Bin(self.sized::<4>()?),
            0xc7 => self.ext_sized::<1>()?,
            0xc8 => self.ext_sized::<2>()?,
            0xc9 => self.ext_sized::<4>()?,
            0xca => Value::Float(f32::from_be_bytes(self.fixed()?).into()),
            0xcb => Value::Float(f64::from_be_bytes(self.fixed()?)),
            0xcc => Value::Unsigned(u8::from_be_bytes(self.fixed()?).into()),
            0xcd => Value::Unsigned(u16::from_be_bytes(self.fixed()?).into()),
            0xce => Value::Unsigned(u32::from_be_bytes(self.fixed()?).into()),
            0xcf => Value::Unsigned(u64::from_be_bytes(self.fixed()?)),
            0xd0 => Value::Signed(i8::from_be_bytes(self.fixed()?).into()),
            0xd1 => Value::Signed(i16::from_be_bytes(self.fixed()?).into()),
            0xd2 => Value::Signed(i32::from_be_bytes(self.fixed()?).into()),
            0xd3 => Value::Signed(i64::from_be_bytes(self.fixed()?)),
            // fixext 1, 2, 4, 8 and 16
            0xd4..=0xd8 => self.ext(1 << (marker - 0xd4))?,
            0xd9 => utf8(self.sized::<1>()?)?,
            0xda => utf8(self.sized::<2>()?)?,
            0xdb => utf8(self.sized::<4>()?)?,
            0xdc => {
                let count = self.length::<2>()?;
                self.array(count)?
            }
            0xdd => {
                let count = self.length::<4>()?;
                self.array(count)?
            }
            0xde => {
                let count = self.length::<2>()?;
                self.map(count)?
            }
            0xdf => {
                let count = self.length::<4>()?;
                self.map(count)?
            }
            0xe0..=0xff => Value::Signed(i8::from_be_bytes([marker]).into()),
        })
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A big-endian length of `N` bytes.
    fn length<const N: usize>(&mut self) -> Result<usize, DecodeError> {
        let bytes: [u8; N] = self.fixed()?;
        let length = bytes
            .iter()
            .fold(0u64, |length, byte| length << 8 | u64::from(*byte));
        usize::try_from(length).map_err(|_| DecodeError::Truncated)
    }

    /// Bytes behind a length of `N` bytes.
    fn sized<const N: usize>(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.length::<N>()?;
        self.take(len)
    }

    fn text(&mut self, len: usize) -> Result<Value<'a>, DecodeError> {
        utf8(self.take(len)?)
    }

    /// An ext whose length takes `N` bytes.
    fn ext_sized<const N: usize>(&mut self) -> Result<Value<'a>, DecodeError> {
        let len = self.length::<N>()?;
        Ok(match self.ext(len)? {
            Value::Ext(0, bytes) => Value::Bin(bytes),
            other => other,
        })
    }

    fn ext(&mut self, len: usize) -> Result<Value<'a>, DecodeError> {
        let [kind] = self.fixed()?;
        Ok(Value::Ext(i8::from_be_bytes([kind]), self.take(len)?))
    }

    /// An element takes a byte at least, so a higher count is a lie.
    fn array(&mut self, count: usize) -> Result<Value<'a>, DecodeError> {
        if count > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(Value::Array(count))
    }

    fn map(&mut self, count: usize) -> Result<Value<'a>, DecodeError> {
        if count > self.rest.len() / 2 {
            return Err(DecodeError::Truncated);
        }
        Ok(Value::Map(count))
    }
}

fn utf8(bytes: &[u8]) -> Result<Value<'_>, DecodeError> {
    std::str::from_utf8(bytes)
        .map(Value::Str)
        .map_err(|_| DecodeError::InvalidUtf8)
}
