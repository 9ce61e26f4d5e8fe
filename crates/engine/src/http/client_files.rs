//! The browser client's files beside the endpoint (`/socket.io/socket.io.js`), where the
//! script tags of many pages look for them.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Response, StatusCode};
use sha1::{Digest, Sha1};

use crate::http::answer::{Answer, status, text};

/// Largest file, bytes. The largest of the real ones, a map, has a third of a megabyte.
const MAX_FILE: u64 = 4 << 20;

/// The files there may be. Nothing else is ever looked for, so no path leads elsewhere.
const NAMES: [&str; 8] = [
    "socket.io.js",
    "socket.io.min.js",
    "socket.io.esm.min.js",
    "socket.io.msgpack.min.js",
    "socket.io.js.map",
    "socket.io.min.js.map",
    "socket.io.esm.min.js.map",
    "socket.io.msgpack.min.js.map",
];

/// The client's file that a path below the endpoint's names.
pub(super) fn name(path: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|name| *name == path)
}

/// Files as they were last read.
pub(super) struct ClientFiles {
    folder: Option<PathBuf>,
    read: [tokio::sync::Mutex<Option<File>>; NAMES.len()],
}

#[derive(Clone)]
struct File {
    /// As long as these are the same, so is the file.
    state: (SystemTime, u64),
    bytes: Bytes,
    etag: HeaderValue,
}

impl ClientFiles {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        ClientFiles {
            folder,
            read: Default::default(),
        }
    }

    /// Answers a request for one of the files.
    pub(super) async fn answer(
        &self,
        method: &Method,
        headers: &HeaderMap,
        name: &'static str,
    ) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        let Some(folder) = &self.folder else {
            return text(
                StatusCode::NOT_FOUND,
                "The client's files are not served here: set server.client_files to the \
                 dist folder of the npm package socket.io-client, or load them from a CDN.\n",
            );
        };
        match self.file(folder, name).await {
            Ok(file) => file.answer(headers, name),
            Err(error) => {
                tracing::debug!(%error, name, "a file of the client could not be read");
                text(
                    StatusCode::NOT_FOUND,
                    "This file is not in the folder server.client_files, or cannot be read: \
                     it should be the dist folder of the npm package socket.io-client.\n",
                )
            }
        }
    }

    async fn file(&self, folder: &Path, name: &'static str) -> io::Result<File> {
        let index = NAMES.iter().position(|one| *one == name).unwrap_or(0);
        // Read by one request at a time, whoever else wants it.
        let mut known = self.read[index].lock().await;
        let (path, last) = (folder.join(name), known.clone());
        let reading = tokio::task::spawn_blocking(move || read(&path, last));
        let file = reading.await.map_err(io::Error::other)??;
        *known = Some(file.clone());
        Ok(file)
    }
}

fn read(path: &Path, last: Option<File>) -> io::Result<File> {
    let about = std::fs::metadata(path)?;
    if !about.is_file() || about.len() > MAX_FILE {
        return Err(io::Error::other("no file, or too large"));
    }
    let state = (about.modified()?, about.len());
    if let Some(last) = last.filter(|last| last.state == state) {
        return Ok(last);
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_FILE)
        .read_to_end(&mut bytes)?;
    let tag = URL_SAFE_NO_PAD.encode(Sha1::digest(&bytes));
    let etag = HeaderValue::try_from(format!("\"{tag}\"")).map_err(io::Error::other)?;
    Ok(File {
        state,
        bytes: bytes.into(),
        etag,
    })
}

impl File {
    fn answer(&self, asked: &HeaderMap, name: &str) -> Answer {
        let known = asked.get_all(header::IF_NONE_MATCH).iter().any(|value| {
            let tags = value.to_str().unwrap_or_default().split(',').map(str::trim);
            let mut tags = tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag));
            tags.any(|tag| tag == "*" || self.etag == tag)
        });
        let mut answer = match known {
            true => status(StatusCode::NOT_MODIFIED),
            false => Response::new(Full::new(self.bytes.clone())),
        };
        let kind = match name.ends_with(".map") {
            true => "application/json; charset=utf-8",
            false => "application/javascript; charset=utf-8",
        };
        let headers = answer.headers_mut();
        headers.insert(header::ETAG, self.etag.clone());
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=0"),
        );
        if !known {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        answer
    }
}
