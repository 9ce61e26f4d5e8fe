//! Whether the addresses to listen on are free, and who has them if not.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::report::Check;
use crate::config::Settings;
use crate::listen::{advice, bind};

/// How long whoever has a port may take to say that it is a node.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most bytes of that answer that are looked at.
const MAX_ANSWER: u64 = 4096;
/// This program, as the kernel names its processes.
const NAME: &str = "heartline";

/// A node that has one of the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) pid: u32,
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    Process {
        pid: u32,
        name: String,
    },
    /// The kernel does not tell this user; whether it answers as a node does.
    Unknown {
        is_node: bool,
    },
}

/// The checks, and the node that has an address, if the kernel says which it is.
pub(super) async fn look(settings: &Settings) -> (Vec<Check>, Option<Running>) {
    let wanted = [
        ("server.listen", Some(&settings.listen)),
        ("admin.listen", Some(&settings.admin_listen)),
        ("cluster.listen", settings.cluster_listen.as_ref()),
    ];
    let (mut checks, mut running) = (Vec::new(), None);
    for (key, address) in wanted {
        let Some(address) = address else {
            continue;
        };
        let Err(error) = bind(address).await else {
            checks.push(Check::ok("ports", format!("{address} is free ({key})")));
            continue;
        };
        // A node that speaks TLS there says that it is one on its other port.
        let speaks_tls = key == "server.listen" && settings.tls_cert.is_some();
        let beside = speaks_tls.then_some(&*settings.admin_listen);
        let holder = match error.kind() {
            // The kernel asks for the privilege before it looks whether the port is free.
            ErrorKind::AddrInUse | ErrorKind::PermissionDenied => holder(address, beside).await,
            _ => None,
        };
        if let Some(Holder::Process { pid, name }) = &holder
            && name == NAME
        {
            running.get_or_insert(Running { pid: *pid });
        }
        checks.push(judge_refused(key, address, &error, holder.as_ref()));
    }
    (checks, running)
}

/// What an address is that cannot be had, with who has it.
fn judge_refused(key: &str, address: &str, error: &io::Error, holder: Option<&Holder>) -> Check {
    match (holder, error.kind()) {
        (Some(holder), _) => judge(key, address, holder),
        (None, ErrorKind::AddrInUse) => judge(key, address, &Holder::Unknown { is_node: false }),
        (None, _) => {
            let who = match error.kind() {
                ErrorKind::PermissionDenied => " by this user",
                _ => "",
            };
            let found = format!("{address} cannot be listened on{who} ({key})");
            Check::problem("ports", found, Some(advice(key, error)))
        }
    }
}

fn judge(key: &str, address: &str, holder: &Holder) -> Check {
    let port = address.rsplit(':').next().unwrap_or_default();
    match holder {
        Holder::Process { pid, name } if name == NAME => Check::ok(
            "ports",
            format!("a running heartline has {address} ({key}): process {pid}"),
        ),
        Holder::Unknown { is_node: true } => Check::ok(
            "ports",
            format!("a running heartline has {address} ({key}): it answers at /healthz"),
        ),
        Holder::Process { pid, name } => Check::problem(
            "ports",
            format!("another program has {address} ({key}): {name}, process {pid}"),
            Some(format!(
                "stop that (kill {pid}), or set {key} to another port"
            )),
        ),
        Holder::Unknown { is_node: false } => Check::problem(
            "ports",
            format!("another program has {address} ({key})"),
            Some(format!(
                "sudo ss -ltnp 'sport = :{port}' says which; stop that, or set {key} to another \
                 port"
            )),
        ),
    }
}

/// Who listens at an address, if somebody does; `beside` is where a node would answer that speaks
/// TLS there.
async fn holder(address: &str, beside: Option<&str>) -> Option<Holder> {
    let wanted = addresses(address).await;
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let tables = tables.into_iter().flatten();
    let inodes: Vec<u64> = tables
        .flat_map(|table| listeners(&table))
        .filter(|(listener, _)| wanted.iter().any(|wanted| is_same(*listener, *wanted)))
        .map(|(_, inode)| inode)
        .collect();
    if let Some(pid) = process_with(&inodes) {
        let name = name_of(pid);
        return Some(Holder::Process { pid, name });
    }
    let is_node_here = is_node(&wanted).await;
    if inodes.is_empty() && !is_node_here {
        return None;
    }
    let is_node = match beside.filter(|_| !is_node_here) {
        Some(beside) => is_node(&addresses(beside).await).await,
        None => is_node_here,
    };
    Some(Holder::Unknown { is_node })
}

async fn addresses(address: &str) -> Vec<SocketAddr> {
    let found = tokio::net::lookup_host(address).await;
    found.map(Iterator::collect).unwrap_or_default()
}

/// The name of a process, as the kernel has it.
pub(super) fn name_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

fn is_same(listener: SocketAddr, wanted: SocketAddr) -> bool {
    let is_any = listener.ip().is_unspecified() || wanted.ip().is_unspecified();
    let is_ip = listener.ip().to_canonical() == wanted.ip().to_canonical();
    listener.port() == wanted.port() && (is_any || is_ip)
}

/// Addresses that are listened on, each with its socket's inode (proc(5), /proc/net/tcp).
fn listeners(table: &str) -> Vec<(SocketAddr, u64)> {
    const LISTENING: &str = "0A";
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, LISTENING, ..] = fields[..] else {
            return None;
        };
        let (ip, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let inode = fields.get(9)?.parse().ok()?;
        Some((SocketAddr::new(ip_of(ip)?, port), inode))
    };
    table.lines().filter_map(read).collect()
}

/// An address as words of 32 bits in the machine's own order.
fn ip_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index * 8)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// A process that has one of these sockets; of others' processes only root is told.
fn process_with(inodes: &[u64]) -> Option<u32> {
    let names: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let open = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|link| {
                link.to_str()
                    .is_some_and(|link| names.iter().any(|name| name == link))
            })
    })
}

/// Whether somebody answers there as a node does. One that speaks TLS does not.
async fn is_node(wanted: &[SocketAddr]) -> bool {
    let Some(address) = wanted.first() else {
        return false;
    };
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let asked = tokio::time::timeout(PATIENCE, async {
        let mut stream = TcpStream::connect((ip, address.port())).await?;
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    });
    let answer = asked.await.ok().and_then(Result::ok).unwrap_or_default();
    String::from_utf8_lossy(&answer).contains(r#"{"status":"ok"}"#)
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 20 4 30 10 -1
   2: 00000000000000000000000001000000:2382 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000000000000000 100 0 0 10 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn who_listens_is_read_from_what_the_kernel_says() {
        let all = listeners(TABLE);
        let expected = [("127.0.0.1:8080", 4711), ("[::1]:9090", 4713)];
        assert_eq!(
            all,
            expected.map(|(address, inode)| (address.parse().unwrap(), inode))
        );
        let is_same = |wanted: &str| is_same(all[0].0, wanted.parse().unwrap());
        assert!(is_same("127.0.0.1:8080") && is_same("0.0.0.0:8080") && is_same("[::]:8080"));
        assert!(!is_same("127.0.0.1:8081") && !is_same("10.0.0.1:8080"));
    }

    #[test]
    fn a_port_that_a_node_has_is_no_problem_and_one_that_another_has_is() {
        let process = |name: &str| Holder::Process {
            pid: 7,
            name: name.into(),
        };
        for (holder, expected, says) in [
            (process("heartline"), Status::Ok, "process 7"),
            (process("nginx"), Status::Problem, "nginx, process 7"),
            (Holder::Unknown { is_node: true }, Status::Ok, "/healthz"),
            (
                Holder::Unknown { is_node: false },
                Status::Problem,
                "another",
            ),
        ] {
            let check = judge("server.listen", "0.0.0.0:8080", &holder);
            assert_eq!(check.status, expected);
            assert!(check.found.contains(says), "{check:?}");
            assert_eq!(check.todo.is_some(), expected == Status::Problem);
        }
    }

    #[test]
    fn a_port_that_wants_a_privilege_may_be_the_nodes_all_the_same() {
        let judged = |kind: ErrorKind, holder: Option<&Holder>| {
            judge_refused("server.listen", "0.0.0.0:443", &kind.into(), holder)
        };
        let node = Holder::Unknown { is_node: true };
        let other = Holder::Unknown { is_node: false };
        for kind in [ErrorKind::PermissionDenied, ErrorKind::AddrInUse] {
            assert_eq!(judged(kind, Some(&node)).status, Status::Ok);
            let check = judged(kind, Some(&other));
            assert!(check.found.contains("another program"), "{check:?}");
        }
        let check = judged(ErrorKind::PermissionDenied, None);
        assert_eq!(check.status, Status::Problem);
        let todo = check.todo.unwrap();
        let privilege = todo
            .find("AmbientCapabilities=CAP_NET_BIND_SERVICE")
            .unwrap();
        assert!(
            privilege < todo.find("set server.listen").unwrap(),
            "{todo}"
        );
        let check = judged(ErrorKind::AddrInUse, None);
        assert!(check.found.contains("another program"), "{check:?}");
        let check = judged(ErrorKind::AddrNotAvailable, None);
        assert!(check.todo.unwrap().contains("no such address"));
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_port_is_found_with_the_process_that_has_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let Some(Holder::Process { pid, .. }) = holder(&address, None).await else {
            panic!("this process");
        };
        assert_eq!(pid, std::process::id());
        // Nobody else can have this one either.
        let unused = tokio::net::TcpSocket::new_v4().unwrap();
        unused.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = unused.local_addr().unwrap().to_string();
        assert_eq!(holder(&address, None).await, None);
    }
}
