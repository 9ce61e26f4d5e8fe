//! From bytes to messages.

use super::header::{self, Header, apply_mask};
use super::state::State;
use super::{Error, Message, OpCode, Role, close};

/// Decodes one direction of a connection.
///
/// Eight bytes while the connection is quiet: the rest is boxed, and only
/// there while a message is incomplete.
#[derive(Debug, Default)]
pub struct Decoder {
    state: Option<Box<State>>,
}

/// What a step has found, before it is turned into a [`Message`].
enum Found<'b> {
    /// A message that lies whole in the input, unmasked.
    InInput(OpCode, bool, &'b [u8]),
    /// A message that was assembled in the state.
    InState(OpCode),
}

impl Decoder {
    /// Takes the next message from the front of `input`.
    ///
    /// `input` is advanced past what was consumed, and its payload is unmasked
    /// in place. `Ok(None)` means that all of it was consumed and more is
    /// needed; an incomplete rest is kept. A message that lies whole and
    /// unfragmented in `input` is borrowed from it, any other is assembled
    /// here and lives until the next call.
    ///
    /// `max` bounds a data message, all its fragments together. It is refused
    /// as soon as a header shows that it will be larger, and buffers grow with
    /// what has arrived, not with what was claimed.
    ///
    /// # Errors
    ///
    /// The connection must be failed with [`Error::close_code`]. What was
    /// buffered is gone; nothing sensible can be decoded after it.
    pub fn decode<'s, 'b: 's>(
        &'s mut self,
        input: &mut &'b mut [u8],
        role: Role,
        max: usize,
    ) -> Result<Option<Message<'s>>, Error> {
        self.decode_extended(input, role, false, max)
    }

    /// The same for a connection that may have negotiated permessage-deflate:
    /// with `deflate`, a message may come as [`Message::Compressed`]. `max`
    /// then bounds what has come, and inflating it needs a bound of its own.
    ///
    /// # Errors
    ///
    /// As [`Decoder::decode`].
    pub fn decode_extended<'s, 'b: 's>(
        &'s mut self,
        input: &mut &'b mut [u8],
        role: Role,
        deflate: bool,
        max: usize,
    ) -> Result<Option<Message<'s>>, Error> {
        if let Some(state) = &mut self.state {
            state.release();
        }
        let found = match self.step(input, role, deflate, max) {
            Ok(found) => found,
            Err(error) => {
                self.state = None;
                return Err(error);
            }
        };
        match found {
            Some(Found::InInput(opcode, compressed, payload)) => {
                message(opcode, compressed, payload).map(Some)
            }
            Some(Found::InState(opcode)) => match &self.state {
                Some(state) => {
                    let compressed = state.is_compressed(opcode);
                    message(opcode, compressed, state.completed(opcode)).map(Some)
                }
                None => Ok(None),
            },
            None => {
                if self.state.as_ref().is_some_and(|state| state.is_idle()) {
                    self.state = None;
                }
                Ok(None)
            }
        }
    }

    /// Whether nothing is buffered: no part of a header, a frame or a message.
    ///
    /// A message that was assembled and handed out counts as buffered until
    /// the next call of [`Decoder::decode`].
    pub fn is_idle(&self) -> bool {
        self.state.as_ref().is_none_or(|state| state.is_idle())
    }

    /// Whether a message or a frame has begun that has not ended: what its peer says next comes
    /// behind it, but for control frames between the fragments of a message.
    pub fn is_inside(&self) -> bool {
        let state = self.state.as_ref();
        state.is_some_and(|state| {
            state.in_frame() || state.in_message() || !state.header().is_empty()
        })
    }

    /// How many bytes of incomplete headers and messages are held.
    pub fn buffered(&self) -> usize {
        self.state.as_ref().map_or(0, |state| state.buffered())
    }

    /// Consumes input until a message is complete or the input is used up.
    fn step<'b>(
        &mut self,
        input: &mut &'b mut [u8],
        role: Role,
        deflate: bool,
        max: usize,
    ) -> Result<Option<Found<'b>>, Error> {
        loop {
            if let Some(state) = &mut self.state
                && state.in_frame()
                && let Some(opcode) = state.consume(input)?
            {
                return Ok(Some(Found::InState(opcode)));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let Some(header) = self.next_header(input, role, deflate)? else {
                return Ok(None);
            };
            let len = self.check(&header, max)?;
            let whole = header.fin && header.opcode != OpCode::Continuation;
            if whole && len <= input.len() {
                let (payload, rest) = std::mem::take(input).split_at_mut(len);
                *input = rest;
                if role == Role::Server {
                    apply_mask(payload, header.mask);
                }
                return Ok(Some(Found::InInput(
                    header.opcode,
                    header.compressed,
                    payload,
                )));
            }
            self.state.get_or_insert_default().begin(&header, len);
        }
    }

    /// Reads a header from the input; an incomplete one goes to the state.
    #[inline]
    fn next_header(
        &mut self,
        input: &mut &mut [u8],
        role: Role,
        deflate: bool,
    ) -> Result<Option<Header>, Error> {
        if let Some(state) = &mut self.state
            && !state.header().is_empty()
        {
            return resume_header(state, input, role, deflate);
        }
        if let Some((header, size)) = header::parse(input, role, deflate)? {
            advance(input, size);
            return Ok(Some(header));
        }
        let state = self.state.get_or_insert_default();
        for &byte in input.iter() {
            state.push_header_byte(byte);
        }
        advance(input, input.len());
        Ok(None)
    }

    /// Checks a header against what came before it and returns the length of
    /// its payload.
    #[inline]
    fn check(&self, header: &Header, max: usize) -> Result<usize, Error> {
        let in_message = self.state.as_ref().is_some_and(|state| state.in_message());
        let before = match (header.opcode, in_message) {
            (OpCode::Close | OpCode::Ping | OpCode::Pong, _) => {
                // At most 125, which the header's parser has checked.
                return usize::try_from(header.len).map_err(|_| Error::TooBig);
            }
            (OpCode::Continuation, false) => {
                return Err(Error::Protocol("continuation of no message"));
            }
            (OpCode::Text | OpCode::Binary, true) => {
                return Err(Error::Protocol("new message within a fragmented one"));
            }
            (OpCode::Continuation, true) => {
                self.state.as_ref().map_or(0, |state| state.message_len())
            }
            (OpCode::Text | OpCode::Binary, false) => 0,
        };
        usize::try_from(header.len)
            .ok()
            .filter(|len| *len <= max.saturating_sub(before))
            .ok_or(Error::TooBig)
    }
}

/// Continues a header that an earlier read cut off.
fn resume_header(
    state: &mut State,
    input: &mut &mut [u8],
    role: Role,
    deflate: bool,
) -> Result<Option<Header>, Error> {
    while let Some(&byte) = input.first() {
        state.push_header_byte(byte);
        advance(input, 1);
        if let Some((header, _)) = header::parse(state.header(), role, deflate)? {
            state.clear_header();
            return Ok(Some(header));
        }
    }
    Ok(None)
}

fn advance(input: &mut &mut [u8], count: usize) {
    let (_, rest) = std::mem::take(input).split_at_mut(count);
    *input = rest;
}

#[inline]
fn message(opcode: OpCode, compressed: bool, payload: &[u8]) -> Result<Message<'_>, Error> {
    if compressed {
        let text = opcode == OpCode::Text;
        return Ok(Message::Compressed { text, payload });
    }
    Ok(match opcode {
        // An assembled text was checked as it came, and is checked once more:
        // safe code has no other way from bytes to text.
        OpCode::Text => {
            Message::Text(std::str::from_utf8(payload).map_err(|_| Error::InvalidUtf8)?)
        }
        OpCode::Binary | OpCode::Continuation => Message::Binary(payload),
        OpCode::Ping => Message::Ping(payload),
        OpCode::Pong => Message::Pong(payload),
        OpCode::Close => Message::Close(close::parse(payload)?),
    })
}
