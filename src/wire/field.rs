//! Reads and writes the fields of messages, and checks their lengths and limits.

use super::{DecodeError, VERSION};

/// Builds one frame, field by field.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Starts a frame with its type.
    pub(super) fn new(kind: u8) -> Self {
        Writer(vec![kind])
    }

    /// Appends the frame to `out`. The fields' limits keep every message below the frame limit.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.0.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.0);
    }

    pub(super) fn version(self, value: &u16) -> Self {
        self.u16(value)
    }

    pub(super) fn u16(self, value: &u16) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn u32(self, value: &u32) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn u64(self, value: &u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn bool(self, value: &bool) -> Self {
        self.raw(&[u8::from(*value)])
    }

    pub(super) fn code<T: Copy + Into<u8>>(self, value: &T) -> Self {
        self.raw(&[(*value).into()])
    }

    pub(super) fn text(self, value: &str, limit: usize) -> Self {
        let mut end = value.len().min(limit);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes(&value.as_bytes()[..end], limit)
    }

    pub(super) fn bytes(self, value: &[u8], limit: usize) -> Self {
        let value = &value[..value.len().min(limit)];
        self.u16(&(value.len() as u16)).raw(value)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Reads the payload of one frame, field by field.
pub(super) struct Reader<'a> {
    /// The frame's type, for errors.
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(kind: u8, rest: &'a [u8]) -> Self {
        Reader { kind, rest }
    }

    /// Checks that every byte was read.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.rest {
            [] => Ok(()),
            _ => Err(DecodeError::Trailing { kind: self.kind }),
        }
    }

    /// Refuses another version, because the fields after it may be laid out differently.
    pub(super) fn version(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            VERSION => Ok(VERSION),
            other => Err(DecodeError::Version(other)),
        }
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.invalid()),
        }
    }

    pub(super) fn code<T: TryFrom<u8>>(&mut self) -> Result<T, DecodeError> {
        let [byte] = self.array()?;
        T::try_from(byte).map_err(|_| self.invalid())
    }

    pub(super) fn text(&mut self, limit: usize) -> Result<String, DecodeError> {
        String::from_utf8(self.bytes(limit)?).map_err(|_| self.invalid())
    }

    pub(super) fn bytes(&mut self, limit: usize) -> Result<Vec<u8>, DecodeError> {
        let length = usize::from(self.u16()?);
        if length > limit {
            return Err(self.invalid());
        }
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(self.short())?;
        self.rest = rest;
        Ok(bytes.to_vec())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(self.short())?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn short(&self) -> DecodeError {
        DecodeError::Short { kind: self.kind }
    }

    fn invalid(&self) -> DecodeError {
        DecodeError::Invalid { kind: self.kind }
    }
}
