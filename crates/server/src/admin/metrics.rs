//! `/metrics`, in the form that whoever asks can read.

use axum::extract::State as With;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::state::State;

/// The media type of OpenMetrics text, without its parameters.
pub(super) const OPEN: &str = "application/openmetrics-text";

/// The same of Prometheus' text.
pub(super) const PLAIN: &str = "text/plain";

pub(super) async fn metrics(With(state): With<State>, headers: HeaderMap) -> Response {
    let (kind, text) = match prefers_open(&headers) {
        true => (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            state.gateway.encode_metrics(),
        ),
        false => (
            "text/plain; version=0.0.4; charset=utf-8",
            state.gateway.encode_metrics_as_prometheus(),
        ),
    };
    let told = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::VARY, HeaderValue::from_static("Accept")),
    ];
    (told, text).into_response()
}

/// Whether whoever asks accepts OpenMetrics 1.0.0, and likes Prometheus' text not more (RFC 9110,
/// section 12.5.1). Who accepts anything gets Prometheus' text.
fn prefers_open(headers: &HeaderMap) -> bool {
    let (mut open, mut plain) = (0.0_f32, 0.0_f32);
    let given = headers.get_all(header::ACCEPT).iter();
    let given = given.filter_map(|accept| accept.to_str().ok());
    for range in given.flat_map(|accept| accept.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let (mut quality, mut version) = (1.0, None);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.to_ascii_lowercase().as_str() {
                "q" => quality = value.parse().unwrap_or(0.0),
                "version" => version = Some(value.trim_matches('"')),
                _ => {}
            }
        }
        let is = |name: &str, of: &str| {
            kind.eq_ignore_ascii_case(name) && version.is_none_or(|version| version == of)
        };
        if is(OPEN, "1.0.0") {
            open = open.max(quality);
        } else if is(PLAIN, "0.0.4") {
            plain = plain.max(quality);
        }
    }
    open > 0.0 && open >= plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_openmetrics_gets_it_and_everybody_else_prometheus_text() {
        // What Prometheus 3 and 2 send.
        const THREE: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,\
            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,\
            */*;q=0.2";
        const TWO: &str = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        // An old one that knows a draft.
        const DRAFT: &str =
            "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5";
        for (accept, open) in [
            (&[][..], false),
            (&["*/*"], false),
            (&["text/html, */*;q=0.1"], false),
            (&["text/plain"], false),
            (&[THREE], true),
            (&[TWO], true),
            (&[DRAFT], false),
            (&["application/openmetrics-text"], true),
            (
                &[
                    "text/plain;q=0.2",
                    "Application/OpenMetrics-Text; Version=\"1.0.0\"",
                ],
                true,
            ),
            (&["application/openmetrics-text;q=0.2, text/plain"], false),
            (&["application/openmetrics-text;q=0"], false),
            (&["application/openmetrics-text;version=2.0.0"], false),
        ] {
            let mut headers = HeaderMap::new();
            for accept in accept {
                headers.append(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(prefers_open(&headers), open, "{accept:?}");
        }
    }
}
