//! The certificate: whether it is there, fits its key, and for how long it is good.

use std::path::Path;

use heartline::rustls::pki_types::UnixTime;

use super::open_file;
use super::report::Check;
use crate::config::Settings;
use crate::tls::{Certificate, RENEW};

const NAME: &str = "certificate";

/// `now` is in Unix seconds.
pub(super) fn look(settings: &Settings, now: u64) -> Vec<Check> {
    let (Some(cert), Some(key)) = (&settings.tls_cert, &settings.tls_key) else {
        let found = "none (server.tls.cert): what stands in front of the node has to speak TLS";
        return vec![Check::ok(NAME, found)];
    };
    let certificate = match Certificate::load(cert, key) {
        Ok(certificate) => certificate,
        Err(what) => {
            let todo = format!("ls -l {cert} {key}: both have to be PEM that this user may read");
            return vec![Check::problem(NAME, what, Some(todo))];
        }
    };
    let mut checks = vec![judge(cert, &certificate, now)];
    checks.extend(open_file(NAME, Path::new(key), "the private key"));
    checks
}

fn judge(path: &str, certificate: &Certificate, now: u64) -> Check {
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    let names = match &certificate.names()[..] {
        [] => "no name".to_owned(),
        names => names.join(", "),
    };
    let todo = Some(RENEW.to_owned());
    if let Some((is_over, what)) = certificate.ending(now) {
        return match is_over {
            true => Check::problem(NAME, format!("{what} ({names})"), todo),
            false => Check::warning(NAME, format!("{what} ({names})"), todo),
        };
    }
    if certificate.begins_after(now) {
        let found = format!("{path} is not good yet ({names}): is this machine's clock right?");
        return Check::problem(NAME, found, todo);
    }
    let end = certificate.end().map(|end| format!("until {end}"));
    let end = end.unwrap_or("for ever".into());
    Check::ok(NAME, format!("{path} is good {end}, for {names}"))
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    #[test]
    fn a_certificate_is_judged_by_its_dates_and_its_names_are_told() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
        let (cert, key) = (
            format!("{folder}/tls.cert.pem"),
            format!("{folder}/tls.pem"),
        );
        let certificate = Certificate::load(&cert, &key).unwrap();
        const BEGIN: u64 = 1_767_225_600;
        const END: u64 = 1_798_761_599;
        for (now, expected) in [
            (BEGIN - 1, Status::Problem),
            (BEGIN, Status::Ok),
            (END - 15 * 86_400, Status::Ok),
            (END - 13 * 86_400, Status::Warning),
            (END + 1, Status::Problem),
        ] {
            let check = judge(&cert, &certificate, now);
            assert_eq!(check.status, expected, "{check:?}");
        }
        let found = judge(&cert, &certificate, BEGIN).found;
        assert!(
            found.ends_with("until 2026-12-31T23:59:59Z, for app.example, *.app.example"),
            "{found}"
        );
    }

    #[test]
    fn a_key_that_does_not_fit_or_is_not_there_is_a_problem() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
        for key in ["ec.pem", "there-is-none.pem"] {
            let settings = Settings {
                tls_cert: Some(format!("{folder}/tls.cert.pem")),
                tls_key: Some(format!("{folder}/{key}")),
                ..Settings::default()
            };
            let checks = look(&settings, 0);
            assert_eq!(checks[0].status, Status::Problem, "{checks:?}");
            assert!(checks[0].found.contains(key), "{checks:?}");
        }
    }
}
