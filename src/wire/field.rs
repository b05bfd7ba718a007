//! What messages are made of: integers, byte strings and texts, written and
//! read. It knows no message; lengths and limits are checked here alone.

use super::{COMMAND_MAX, DecodeError, Incident, PATH_MAX, TEXT_MAX, VERSION};

/// What stands for a number that nobody knows.
const UNKNOWN: u64 = u64::MAX;

/// Appends one frame to a buffer, field by field.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    /// Begins a frame, whose first field is its type; [`Writer::finish`] ends it.
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0, 0]);
        Writer { out, start }
    }

    pub(super) fn kind(self, kind: u8) -> Self {
        self.u8(&kind)
    }

    /// Fills in the frame's length. Each string has a limit and no message has
    /// more than six, so it always fits.
    pub(super) fn finish(self) {
        let length = (self.out.len() - self.start - 2) as u16;
        self.out[self.start..self.start + 2].copy_from_slice(&length.to_le_bytes());
    }

    pub(super) fn u8(self, value: &u8) -> Self {
        self.raw(&[*value])
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
        self.u8(&u8::from(*value))
    }

    pub(super) fn version(self, value: &u16) -> Self {
        self.u16(value)
    }

    /// One of the enums whose values are bytes.
    pub(super) fn code<T: Copy + Into<u8>>(self, value: &T) -> Self {
        self.u8(&(*value).into())
    }

    pub(super) fn incident(self, value: &Option<Incident>) -> Self {
        match value {
            Some(one) => self.u64(&one.time).text(&one.function).u32(&one.line),
            None => self.u64(&0).text("").u32(&0),
        }
    }

    /// A number that may be unknown.
    pub(super) fn known(self, value: &Option<u64>) -> Self {
        self.u64(&value.unwrap_or(UNKNOWN))
    }

    pub(super) fn command(self, value: &[u8]) -> Self {
        self.bytes(&value[..value.len().min(COMMAND_MAX)])
    }

    pub(super) fn path(self, value: &[u8]) -> Self {
        self.bytes(&value[..value.len().min(PATH_MAX)])
    }

    pub(super) fn text(self, value: &str) -> Self {
        let mut end = value.len().min(TEXT_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes(&value.as_bytes()[..end])
    }

    fn bytes(self, value: &[u8]) -> Self {
        self.u16(&(value.len() as u16)).raw(value) // the callers have cut it
    }

    fn raw(self, bytes: &[u8]) -> Self {
        self.out.extend_from_slice(bytes);
        self
    }
}

/// Takes the payload of one frame apart, field by field.
pub(super) struct Reader<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// `kind` is the frame's type, for the errors.
    pub(super) fn new(kind: u8, payload: &'a [u8]) -> Self {
        Reader {
            kind,
            rest: payload,
        }
    }

    /// Every byte must have been read.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::Trailing {
                kind: self.kind,
                count,
            }),
        }
    }

    /// A version, which must be ours: what follows may be laid out differently.
    pub(super) fn version(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            VERSION => Ok(VERSION),
            other => Err(DecodeError::Version(other)),
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_le_bytes)
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
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(DecodeError::Value {
                kind: self.kind,
                value,
            }),
        }
    }

    pub(super) fn incident(&mut self) -> Result<Option<Incident>, DecodeError> {
        let (time, function, line) = (self.u64()?, self.text()?, self.u32()?);
        let none = time == 0 && function.is_empty() && line == 0;
        Ok((!none).then_some(Incident {
            time,
            function,
            line,
        }))
    }

    /// A number that may be unknown.
    pub(super) fn known(&mut self) -> Result<Option<u64>, DecodeError> {
        self.u64()
            .map(|value| Some(value).filter(|v| *v != UNKNOWN))
    }

    /// One of the enums whose values are bytes.
    pub(super) fn code<T: TryFrom<u8>>(&mut self) -> Result<T, DecodeError> {
        let value = self.u8()?;
        T::try_from(value).map_err(|_| DecodeError::Value {
            kind: self.kind,
            value,
        })
    }

    pub(super) fn command(&mut self) -> Result<Vec<u8>, DecodeError> {
        self.bytes(COMMAND_MAX).map(<[u8]>::to_vec)
    }

    pub(super) fn path(&mut self) -> Result<Vec<u8>, DecodeError> {
        self.bytes(PATH_MAX).map(<[u8]>::to_vec)
    }

    pub(super) fn text(&mut self) -> Result<String, DecodeError> {
        let kind = self.kind;
        let text = std::str::from_utf8(self.bytes(TEXT_MAX)?);
        text.map(str::to_owned)
            .map_err(|_| DecodeError::NotUtf8 { kind })
    }

    fn bytes(&mut self, limit: usize) -> Result<&'a [u8], DecodeError> {
        let length = usize::from(self.u16()?);
        if length > limit {
            let kind = self.kind;
            return Err(DecodeError::TooLong {
                kind,
                length,
                limit,
            });
        }
        self.take(length)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let short = DecodeError::Short { kind: self.kind };
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }
}
