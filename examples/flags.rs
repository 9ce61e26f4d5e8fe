//! The few flags that the example programs share.

// Each example uses some of them.
#![allow(dead_code)]

use std::time::Duration;

/// `--name value` and `--name=value` pairs from the command line.
pub(crate) struct Flags(Vec<(String, String)>);

impl Flags {
    /// Reads the command line; ends the process with a usage line if there is
    /// anything but the `known` flags.
    pub(crate) fn read(known: &[&str]) -> Flags {
        let mut pairs = Vec::new();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            let value = value.or_else(|| words.next());
            match (known.contains(&name.as_str()), value) {
                (true, Some(value)) => pairs.push((name, value)),
                _ => fail(&format!(
                    "cannot make sense of {name}; the flags are {}, each with a value",
                    known.join(", ")
                )),
            }
        }
        Flags(pairs)
    }

    /// The flag's text, or what it is without one.
    pub(crate) fn text(&self, name: &str, default: &str) -> String {
        let found = self.0.iter().rev().find(|(flag, _)| flag == name);
        found.map_or(default, |(_, value)| value).to_owned()
    }

    /// The flag's duration: `300ms`, `25s`, or plain milliseconds.
    pub(crate) fn duration(&self, name: &str, default: &str) -> Duration {
        let text = self.text(name, default);
        let (digits, unit) = text.split_at(
            text.find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len()),
        );
        match (digits.parse::<u64>(), unit) {
            (Ok(number), "" | "ms") => Duration::from_millis(number),
            (Ok(number), "s") => Duration::from_secs(number),
            _ => fail(&format!(
                "{name} {text}: give milliseconds, or a number with ms or s"
            )),
        }
    }

    /// The flag's number.
    pub(crate) fn number(&self, name: &str, default: usize) -> usize {
        let text = self.text(name, &default.to_string());
        text.parse()
            .unwrap_or_else(|_| fail(&format!("{name} {text}: give a number")))
    }

    /// The flag's number, if it is given.
    pub(crate) fn optional(&self, name: &str) -> Option<usize> {
        let given = self.0.iter().any(|(flag, _)| flag == name);
        given.then(|| self.number(name, 0))
    }
}

/// One sentence, and exit code 2.
pub(crate) fn fail(what: &str) -> ! {
    eprintln!("{what}");
    std::process::exit(2);
}
