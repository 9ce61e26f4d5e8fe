//! Writers for msgpack's values, each in its shortest form.

use bytes::BufMut;

pub(super) fn push_unsigned(number: u64, out: &mut Vec<u8>) {
    if number < 0x80 {
        out.push(number as u8);
    } else if let Ok(number) = u8::try_from(number) {
        out.extend_from_slice(&[0xcc, number]);
    } else if let Ok(number) = u16::try_from(number) {
        out.push(0xcd);
        out.put_u16(number);
    } else if let Ok(number) = u32::try_from(number) {
        out.push(0xce);
        out.put_u32(number);
    } else {
        out.push(0xcf);
        out.put_u64(number);
    }
}

pub(super) fn push_signed(number: i64, out: &mut Vec<u8>) {
    if let Ok(number) = u64::try_from(number) {
        push_unsigned(number, out);
    } else if number >= -32 {
        out.put_i8(number as i8);
    } else if let Ok(number) = i8::try_from(number) {
        out.push(0xd0);
        out.put_i8(number);
    } else if let Ok(number) = i16::try_from(number) {
        out.push(0xd1);
        out.put_i16(number);
    } else if let Ok(number) = i32::try_from(number) {
        out.push(0xd2);
        out.put_i32(number);
    } else {
        out.push(0xd3);
        out.put_i64(number);
    }
}

pub(super) fn push_f64(number: f64, out: &mut Vec<u8>) {
    out.push(0xcb);
    out.put_f64(number);
}

pub(super) fn push_str(text: &str, out: &mut Vec<u8>) {
    match text.len() {
        len @ 0..32 => out.push(0xa0 | len as u8),
        len => push_len(len, Some(0xd9), 0xda, out),
    }
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn push_bin(bytes: &[u8], out: &mut Vec<u8>) {
    push_len(bytes.len(), Some(0xc4), 0xc5, out);
    out.extend_from_slice(bytes);
}

pub(super) fn push_array(count: u32, out: &mut Vec<u8>) {
    match count {
        0..16 => out.push(0x90 | count as u8),
        _ => push_len(count as usize, None, 0xdc, out),
    }
}

pub(super) fn push_map(count: u32, out: &mut Vec<u8>) {
    match count {
        0..16 => out.push(0x80 | count as u8),
        _ => push_len(count as usize, None, 0xde, out),
    }
}

/// A marker and a length: `byte` is the marker for one byte of length, if
/// there is one; `word` that for two, and four bytes have the next. Nothing
/// that passes here comes near 4 GiB.
fn push_len(len: usize, byte: Option<u8>, word: u8, out: &mut Vec<u8>) {
    if let (Some(marker), Ok(len)) = (byte, u8::try_from(len)) {
        out.extend_from_slice(&[marker, len]);
    } else if let Ok(len) = u16::try_from(len) {
        out.push(word);
        out.put_u16(len);
    } else {
        out.push(word + 1);
        out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    }
}
