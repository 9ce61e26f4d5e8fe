//! As much of HTTP/1.1 as a client needs that knows what it asked for: request
//! heads, and responses with a length, in chunks, or without a body.

/// A response whose head, and body if it has one, are complete.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Why no response can be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Takes a whole response from the front of `input`; `None` if more is needed.
/// A `101` ends with its head, whatever follows.
pub(crate) fn take(input: &mut Vec<u8>) -> Result<Option<Response>, Malformed> {
    let Some(end) = find(input, b"\r\n\r\n") else {
        return if input.len() > 16 * 1024 {
            Err(Malformed)
        } else {
            Ok(None)
        };
    };
    let head = std::str::from_utf8(&input[..end]).map_err(|_| Malformed)?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|line| line.get(..3)?.parse::<u16>().ok())
        .ok_or(Malformed)?;
    let mut length = None;
    let mut chunked = false;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().map_err(|_| Malformed)?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    let start = end + 4;
    let (body, end) = if status == 101 || status == 204 || status == 304 {
        (Vec::new(), start)
    } else if chunked {
        match chunks(&input[start..])? {
            Some((body, length)) => (body, start + length),
            None => return Ok(None),
        }
    } else {
        let end = start + length.unwrap_or(0);
        match input.get(start..end) {
            Some(body) => (body.to_vec(), end),
            None => return Ok(None),
        }
    };
    input.drain(..end);
    Ok(Some(Response { status, body }))
}

/// A body in chunks and how many bytes it took (RFC 9112 §7.1).
fn chunks(input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Malformed> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let Some(line) = find(&input[at..], b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&input[at..at + line]).map_err(|_| Malformed)?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| Malformed)?;
        at += line + 2;
        let Some(chunk) = input.get(at..at + size + 2) else {
            return Ok(None);
        };
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_text(input: &str) -> Result<Option<(u16, String)>, Malformed> {
        let response = take(&mut input.as_bytes().to_vec())?;
        Ok(response.map(|response| {
            let body = String::from_utf8(response.body).unwrap();
            (response.status, body)
        }))
    }

    #[test]
    fn responses() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(take_text(whole), Ok(Some((200, "ok".into()))));
        for cut in 0..whole.len() {
            assert_eq!(take_text(&whole[..cut]), Ok(None), "{cut}");
        }
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n1;x=y\r\n!\r\n0\r\n\r\n";
        assert_eq!(take_text(chunked), Ok(Some((200, "ok!".into()))));
        for cut in 0..chunked.len() {
            assert_eq!(take_text(&chunked[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(take_text("HTTP/2 200\r\n\r\n"), Err(Malformed));
    }

    #[test]
    fn what_follows_an_upgrade_stays() {
        let mut input = b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x00".to_vec();
        assert_eq!(take(&mut input).unwrap().unwrap().status, 101);
        assert_eq!(input, b"\x81\x00");
    }
}
