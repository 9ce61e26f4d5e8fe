//! Binary values within JSON: what an attachment is to serde.
//!
//! JSON has no bytes, so Socket.IO sends them beside it and leaves a placeholder where they
//! belong. [`Binary`] is written as its placeholder and read from it; the attachments
//! themselves go through a list that stands ready while arguments are written or read.

use std::cell::RefCell;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::objects;

thread_local! {
    /// The attachments of the arguments that are being written or read on this thread.
    static ATTACHMENTS: RefCell<Option<Vec<Bytes>>> = const { RefCell::new(None) };
}

/// Bytes that are an attachment on Socket.IO, and base64 on the live protocol.
///
/// ```
/// use heartline::{Args, Binary};
///
/// let args = Args::many(&("picture.png", Binary::from(vec![1, 2, 3]))).unwrap();
/// assert_eq!(args.json(), r#""picture.png",{"_placeholder":true,"num":0}"#);
/// assert_eq!(args.attachments().len(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Binary(pub Bytes);

impl<T: Into<Bytes>> From<T> for Binary {
    fn from(bytes: T) -> Self {
        Binary(bytes.into())
    }
}

impl Serialize for Binary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = ATTACHMENTS.with_borrow_mut(|attachments| {
            let attachments = attachments.as_mut()?;
            attachments.push(self.0.clone());
            Some(attachments.len() - 1)
        });
        let Some(number) = number else {
            return Err(S::Error::custom(
                "binary can only be written as a part of an event's arguments",
            ));
        };
        let mut placeholder = serializer.serialize_map(Some(2))?;
        placeholder.serialize_entry("_placeholder", &true)?;
        placeholder.serialize_entry("num", &number)?;
        placeholder.end()
    }
}

impl<'de> Deserialize<'de> for Binary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Placeholder {
            _placeholder: bool,
            num: usize,
        }
        let Placeholder { _placeholder, num } = Placeholder::deserialize(deserializer)?;
        let found = ATTACHMENTS.with_borrow(|attachments| {
            let attachments = attachments.as_ref()?;
            attachments.get(num).cloned()
        });
        found
            .filter(|_| _placeholder)
            .map(Binary)
            .ok_or_else(|| D::Error::custom("there is no such attachment"))
    }
}

/// Has attachments stand ready while `work` runs, and gives back what they are then.
fn with<T>(attachments: Vec<Bytes>, work: impl FnOnce() -> T) -> (T, Vec<Bytes>) {
    struct Restore(Option<Vec<Bytes>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ATTACHMENTS.set(self.0.take());
        }
    }
    let _outer = Restore(ATTACHMENTS.replace(Some(attachments)));
    let done = work();
    (done, ATTACHMENTS.take().unwrap_or_default())
}

/// Writes a value; its JSON and its attachments.
pub(crate) fn write<T: Serialize + ?Sized>(
    value: &T,
) -> Result<(String, Vec<Bytes>), serde_json::Error> {
    let (json, attachments) = with(Vec::new(), || serde_json::to_string(value));
    Ok((json?, attachments))
}

/// Reads a value whose placeholders stand for these attachments.
pub(crate) fn read<T: DeserializeOwned>(
    json: &str,
    attachments: &[Bytes],
) -> Result<T, serde_json::Error> {
    read_with(json, attachments, |json| objects::read(json))
}

/// The same of a JSON array of arguments.
pub(crate) fn read_list<T: DeserializeOwned>(
    json: &str,
    attachments: &[Bytes],
) -> Result<T, serde_json::Error> {
    read_with(json, attachments, |json| objects::read_list(json))
}

fn read_with<T>(
    json: &str,
    attachments: &[Bytes],
    read: impl FnOnce(&str) -> Result<T, serde_json::Error>,
) -> Result<T, serde_json::Error> {
    // What JavaScript can say in a string and no text of ours can hold.
    let json = heartline_wire::json::whole(json);
    if attachments.is_empty() {
        return read(&json);
    }
    with(attachments.to_vec(), || read(&json)).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let value = (
            "a".to_owned(),
            vec![Binary::from(vec![1]), Binary::from(vec![2, 3])],
        );
        let (json, attachments) = write(&value).unwrap();
        assert_eq!(
            json,
            r#"["a",[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]]"#
        );
        assert_eq!(attachments.len(), 2);
        let again: (String, Vec<Binary>) = read(&json, &attachments).unwrap();
        assert_eq!(again, value);
    }

    #[test]
    fn a_placeholder_without_its_attachment_does_not_fit() {
        for json in [
            r#"{"_placeholder":true,"num":1}"#,
            r#"{"_placeholder":false,"num":0}"#,
            r#"{"num":0}"#,
            "[true,0]",
            "\"AQID\"",
        ] {
            assert!(
                read::<Binary>(json, &[Bytes::from_static(b"x")]).is_err(),
                "{json}"
            );
        }
        assert!(read::<Binary>(r#"{"_placeholder":true,"num":0}"#, &[]).is_err());
    }

    #[test]
    fn binary_outside_of_arguments_is_an_error_and_no_panic() {
        assert!(serde_json::to_string(&Binary::default()).is_err());
    }
}
