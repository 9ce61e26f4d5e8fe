//! What was found: one line each, for people or for programs.

use std::io::IsTerminal as _;

use serde::Serialize;

use super::{Exit, print, refuse};

/// How it is with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    /// It works, and may not for long, or not as well as it could.
    Warning,
    /// It does not work.
    Problem,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "problem",
        }
    }

    /// Green, yellow, red (ECMA-48, SGR).
    fn colour(self) -> &'static str {
        match self {
            Status::Ok => "\x1b[32m",
            Status::Warning => "\x1b[33m",
            Status::Problem => "\x1b[1;31m",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) status: Status,
    /// What is there.
    pub(super) found: String,
    /// What to type, or to do; `None` where nothing needs doing, or `found` says it.
    pub(super) todo: Option<String>,
}

impl Check {
    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check {
            name,
            status: Status::Ok,
            found: found.into(),
            todo: None,
        }
    }

    pub(super) fn warning(
        name: &'static str,
        found: impl Into<String>,
        todo: Option<String>,
    ) -> Check {
        Check {
            status: Status::Warning,
            todo,
            ..Check::ok(name, found)
        }
    }

    pub(super) fn problem(
        name: &'static str,
        found: impl Into<String>,
        todo: Option<String>,
    ) -> Check {
        Check {
            status: Status::Problem,
            ..Check::warning(name, found, todo)
        }
    }
}

/// Columns of statuses and of names.
const STATUS: usize = 9;
const NAME: usize = 15;
/// Narrower than so many characters nothing can be read.
const MIN_WIDTH: usize = 40;
/// The width of a terminal that does not say it, and the widest that is read with ease.
const WIDTH: usize = 100;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// One object, at the end.
    Json,
    /// One line a check: for `grep`.
    Plain,
    /// With colours, what to do on a line of its own, and no line longer than so many characters.
    Terminal(usize),
}

/// Text in lines of at most so many characters, if its words allow it, with `indent` spaces before
/// the second one and those that follow.
fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

/// A check as its line, or two.
pub(super) fn line(check: &Check, look: Look) -> String {
    let Check {
        name,
        status,
        found,
        todo,
    } = check;
    let word = status.word();
    let gap = " ".repeat(STATUS.saturating_sub(word.len()));
    let Look::Terminal(width) = look else {
        let todo = todo
            .as_ref()
            .map_or(String::new(), |todo| format!(" -> {todo}"));
        return format!("{word}{gap}{name:<NAME$}{found}{todo}\n");
    };
    let indent = STATUS + NAME;
    let width = width.saturating_sub(indent).max(MIN_WIDTH);
    let colour = status.colour();
    let found = wrapped(found, width, indent);
    let mut out = format!("{colour}{word}\x1b[0m{gap}{name:<NAME$}{found}\n");
    if let Some(todo) = todo {
        let todo = wrapped(todo, width - 2, indent + 2);
        out += &format!("{:indent$}\x1b[1m→ {todo}\x1b[0m\n", "");
    }
    out
}

/// How many there are of each, in words.
fn sum(checks: &[Check]) -> String {
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    let some = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        count => Some(format!("{count} {what}s")),
    };
    let problems = some(count(Status::Problem), "problem");
    let warnings = some(count(Status::Warning), "warning");
    let all: Vec<String> = problems.into_iter().chain(warnings).collect();
    match all.is_empty() {
        true => format!("{} checks, all well\n", checks.len()),
        false => format!("{} checks, {}\n", checks.len(), all.join(", ")),
    }
}

/// Says what is found as it is found.
pub(super) struct Report {
    checks: Vec<Check>,
    look: Look,
}

impl Report {
    /// Colours are for a terminal whose user has not said otherwise (`NO_COLOR`).
    pub(super) fn new(json: bool) -> Report {
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let look = match json {
            true => Look::Json,
            false if is_plain || !std::io::stdout().is_terminal() => Look::Plain,
            false => Look::Terminal(width()),
        };
        Report {
            checks: Vec::new(),
            look,
        }
    }

    pub(super) fn begin(&self) -> Result<(), Exit> {
        match self.look {
            Look::Terminal(_) => print(concat!(
                "\x1b[1mheartline ",
                env!("CARGO_PKG_VERSION"),
                "\x1b[0m on this machine\n\n"
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn add(&mut self, check: Check) -> Result<(), Exit> {
        if self.look != Look::Json {
            print(&line(&check, self.look))?;
        }
        self.checks.push(check);
        Ok(())
    }

    pub(super) fn add_all(&mut self, checks: Vec<Check>) -> Result<(), Exit> {
        checks.into_iter().try_for_each(|check| self.add(check))
    }

    pub(super) fn end(&self) -> Result<(), Exit> {
        match self.look {
            Look::Json => print(&format!("{}\n", self.json()?)),
            _ => print(&format!("\n{}", sum(&self.checks))),
        }
    }

    fn json(&self) -> Result<String, Exit> {
        #[derive(Serialize)]
        struct All<'a> {
            ok: bool,
            checks: &'a [Check],
        }
        let all = All {
            ok: self.is_ok(),
            checks: &self.checks,
        };
        serde_json::to_string(&all).map_err(|error| refuse(Exit::Failed, error))
    }

    /// Whether there is no problem.
    pub(super) fn is_ok(&self) -> bool {
        let mut checks = self.checks.iter();
        checks.all(|check| check.status != Status::Problem)
    }
}

/// The characters of a line of the terminal.
fn width() -> usize {
    #[cfg(unix)]
    let columns = rustix::termios::tcgetwinsize(std::io::stdout()).map(|size| size.ws_col);
    #[cfg(not(unix))]
    let columns: Result<u16, ()> = Err(());
    match columns {
        Ok(columns) if columns > 0 => usize::from(columns).min(WIDTH),
        _ => WIDTH,
    }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + 6);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_one_line_for_programs_and_has_its_remedy_below_for_people() {
        let check = Check::problem("store", "it is full", Some("rm something".into()));
        assert_eq!(
            line(&check, Look::Plain),
            "problem  store          it is full -> rm something\n"
        );
        let shown = line(&check, Look::Terminal(80));
        assert!(shown.contains("\x1b[1;31mproblem\x1b[0m  store          it is full\n"));
        assert!(shown.ends_with("→ rm something\x1b[0m\n"));
        assert_eq!(line(&check, Look::Plain).matches('\x1b').count(), 0);
    }

    #[test]
    fn the_last_line_counts_and_json_says_the_same() {
        let mut report = Report::new(true);
        for check in [Check::ok("a", "1"), Check::warning("b", "2", None)] {
            report.add(check).unwrap();
        }
        assert!(report.is_ok());
        assert_eq!(sum(&report.checks), "2 checks, 1 warning\n");
        assert_eq!(sum(&report.checks[..1]), "1 checks, all well\n");
        report
            .add(Check::problem("c", "3", Some("4".into())))
            .unwrap();
        assert_eq!(sum(&report.checks), "3 checks, 1 problem, 1 warning\n");
        let json = report.json().unwrap();
        assert!(json.starts_with(r#"{"ok":false,"checks":[{"name":"a","status":"ok","#));
        let last = r#"{"name":"c","status":"problem","found":"3","todo":"4"}]}"#;
        assert!(json.ends_with(last), "{json}");
    }

    #[test]
    fn long_sentences_stay_beside_the_names_of_their_checks() {
        let found = "a ".repeat(100);
        let check = Check::warning("store", found, Some("b ".repeat(100)));
        let shown = line(&check, Look::Terminal(80));
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines.len() > 4);
        for line in &lines[1..] {
            assert!(line.starts_with(&" ".repeat(STATUS + NAME)), "{line:?}");
        }
        let plain = shown
            .replace("\x1b[33m", "")
            .replace("\x1b[0m", "")
            .replace("\x1b[1m", "");
        assert!(
            plain.lines().all(|line| line.chars().count() <= 80),
            "{plain}"
        );
        assert_eq!(wrapped("no-space-at-all", 3, 2), "no-space-at-all");
    }

    #[test]
    fn great_numbers_can_be_read() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1024, "1 024"),
            (1_048_576, "1 048 576"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
