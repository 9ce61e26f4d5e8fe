//! Compression of what polling requests are answered with, for clients that take it.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use hyper::header::{self, HeaderMap, HeaderValue};

use crate::http::answer::{Answer, payload_answer};

/// The fastest: responses are made anew for each client.
const LEVEL: Compression = Compression::new(1);
/// From here on, bytes, the work takes milliseconds and is done where others need not wait
/// for it.
const LONG: usize = 64 << 10;

/// How a response is compressed (RFC 9110 §8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
}

impl Coding {
    fn as_str(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        }
    }
}

/// Which coding a client takes; gzip, if it has no wishes.
pub(super) fn accepted(headers: &HeaderMap) -> Option<Coding> {
    let mut deflate = None;
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    for coding in codings {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let quality = parameters.trim().strip_prefix("q=");
        if quality.is_some_and(|q| q.trim().parse::<f32>().is_ok_and(|q| q <= 0.0)) {
            continue;
        }
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => return Some(Coding::Gzip),
            "deflate" => deflate = Some(Coding::Deflate),
            _ => {}
        }
    }
    deflate
}

/// The response to a polling request in `coding`, or as it is where that is no longer.
pub(super) async fn compressed(payload: Bytes, coding: Coding) -> Answer {
    let packed = match payload.len() < LONG {
        true => pack(&payload, coding),
        false => {
            let plain = payload.clone();
            let packing = tokio::task::spawn_blocking(move || pack(&plain, coding));
            packing.await.unwrap_or_default()
        }
    };
    let smaller = !packed.is_empty() && packed.len() < payload.len();
    let mut answer = match smaller {
        true => payload_answer(packed.into()),
        false => payload_answer(payload),
    };
    let headers = answer.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if smaller {
        let coding = HeaderValue::from_static(coding.as_str());
        headers.insert(header::CONTENT_ENCODING, coding);
    }
    answer
}

/// Empty, if that fails.
fn pack(bytes: &[u8], coding: Coding) -> Vec<u8> {
    let out = Vec::with_capacity(bytes.len() / 2);
    let packed = match coding {
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(out, LEVEL);
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(out, LEVEL);
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
    };
    packed.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Option<Coding> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
        accepted(&headers)
    }

    #[test]
    fn a_client_gets_only_what_it_takes() {
        assert_eq!(of("gzip, deflate, br"), Some(Coding::Gzip));
        assert_eq!(of("br;q=1.0, deflate;q=0.5"), Some(Coding::Deflate));
        assert_eq!(of("deflate, GZIP;q=0.1"), Some(Coding::Gzip));
        assert_eq!(of("gzip;q=0, deflate; q=0.000"), None);
        assert_eq!(of("identity, br, *"), None);
        assert_eq!(accepted(&HeaderMap::new()), None);
    }
}
