//! JSON text written as msgpack, without a tree in between.

use bytes::Bytes;

use super::marker::{
    push_array, push_bin, push_f64, push_map, push_signed, push_str, push_unsigned,
};
use crate::json::{self, Token, Tokens};
use crate::socketio::{Candidate, Named};

/// What an array or object of the JSON becomes.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Array(u32),
    Map(u32),
    /// A placeholder for the attachment of this number.
    Bin(usize),
}

/// msgpack says how many elements follow before they do, JSON does not: a
/// first pass counts.
pub(super) struct Shapes {
    /// Values at the top level.
    pub(super) top: u32,
    /// One for each array and object, in the order in which they open.
    all: Vec<Shape>,
}

struct Open {
    /// In [`Shapes::all`].
    index: usize,
    count: u32,
    is_object: bool,
    candidate: Candidate,
}

impl Shapes {
    /// Placeholders beyond the number of attachments, and those for one that has been
    /// named before, stay plain objects.
    pub(super) fn of(text: &str, attachments: usize) -> Self {
        let mut shapes = Self {
            top: 0,
            all: Vec::new(),
        };
        let mut open: Vec<Open> = Vec::new();
        let mut named = Named::new(attachments);
        for token in Tokens::new(text) {
            match token {
                Token::Key(raw) => {
                    if let Some(object) = open.last_mut() {
                        object.candidate.key(raw);
                    }
                }
                Token::ObjectEnd | Token::ArrayEnd => {
                    if let Some(closed) = open.pop() {
                        shapes.all[closed.index] = closed.shape(&mut named);
                    }
                }
                value => {
                    match open.last_mut() {
                        Some(parent) => {
                            parent.count += 1;
                            parent.candidate.value(&value);
                        }
                        None => shapes.top += 1,
                    }
                    if let Token::ObjectStart | Token::ArrayStart = value {
                        open.push(Open {
                            index: shapes.all.len(),
                            count: 0,
                            is_object: value == Token::ObjectStart,
                            candidate: Candidate::default(),
                        });
                        shapes.all.push(Shape::Array(0));
                    }
                }
            }
        }
        shapes
    }
}

impl Open {
    fn shape(&self, named: &mut Named) -> Shape {
        match self.candidate.placeholder() {
            Some(Some(num)) if named.first(num) => Shape::Bin(num),
            _ if self.is_object => Shape::Map(self.count),
            _ => Shape::Array(self.count),
        }
    }
}

/// Appends the values of `text`, which the shapes were taken from.
pub(super) fn push_json(text: &str, shapes: &Shapes, attachments: &[Bytes], out: &mut Vec<u8>) {
    let mut shapes = shapes.all.iter();
    // Open brackets of a placeholder, whose inside is passed over.
    let mut passing = 0u32;
    for token in Tokens::new(text) {
        if passing > 0 {
            match token {
                Token::ObjectStart | Token::ArrayStart => {
                    passing += 1;
                    shapes.next();
                }
                Token::ObjectEnd | Token::ArrayEnd => passing -= 1,
                _ => {}
            }
            continue;
        }
        match token {
            Token::ObjectStart | Token::ArrayStart => match shapes.next() {
                Some(Shape::Map(count)) => push_map(*count, out),
                Some(Shape::Array(count)) => push_array(*count, out),
                Some(Shape::Bin(num)) => {
                    push_bin(attachments.get(*num).map_or(&[], |bytes| bytes), out);
                    passing = 1;
                }
                None => {}
            },
            Token::ObjectEnd | Token::ArrayEnd => {}
            Token::Key(raw) | Token::String(raw) => {
                push_str(&json::unquote(raw).unwrap_or_default(), out);
            }
            Token::Number(raw) => push_number(raw, out),
            Token::True => out.push(0xc3),
            Token::False => out.push(0xc2),
            Token::Null => out.push(0xc0),
        }
    }
}

/// An integer if it is written as one and fits 64 bits, otherwise a float, as
/// all numbers are in JavaScript.
fn push_number(raw: &str, out: &mut Vec<u8>) {
    if let Ok(number) = raw.parse::<u64>() {
        push_unsigned(number, out);
    } else if let Ok(number) = raw.parse::<i64>() {
        push_signed(number, out);
    } else {
        // Any JSON number is one to Rust as well; beyond the range it becomes
        // infinite, as in `JSON.parse`.
        push_f64(raw.parse().unwrap_or_default(), out);
    }
}
