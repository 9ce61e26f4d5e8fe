//! The registry in Redis: one script, of which each operation is a call.

mod fanout;
mod server;
mod socketio;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, RedisError, RedisResult, Script, Value};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::registry::{
    Admission, Audit, Departure, Edge, EdgeId, Edges, Fenced, Guarded, Joined, Known, Loser,
    Millis, Newcomer, NodeInfo, NodeState, Registry, Renewed, Restored, RoomName, Seen, Tended,
    Unavailable, UserName, Who,
};

pub use fanout::{Counters as FanoutCounters, Fanout, Incoming, Queue};
use server::is_unknown_script;
pub use server::{BadUrl, Commands, Connection, Pushed, Server};
pub use socketio::Foreign;

const SOURCE: &str = include_str!("registry.lua");

/// How long a read of the stream waits at the server.
const BLOCK: Duration = Duration::from_secs(5);
/// Edges in one read.
const READ: usize = 4096;

/// Whether a URL names a server.
///
/// # Errors
/// When it does not.
pub fn check_url(url: &str) -> Result<(), BadUrl> {
    Server::parse(url).map(|_| ())
}

/// By which of its addresses this machine reaches a server: where other machines that
/// reach it will find this one. Sends nothing.
pub async fn own_address(url: &str) -> Option<std::net::IpAddr> {
    let (host, port) = Server::parse(url).ok()?.some_address()?;
    for address in tokio::net::lookup_host((host, port)).await.ok()? {
        let any: std::net::IpAddr = match address.is_ipv4() {
            true => std::net::Ipv4Addr::UNSPECIFIED.into(),
            false => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let Ok(socket) = tokio::net::UdpSocket::bind((any, 0)).await else {
            continue;
        };
        if socket.connect(address).await.is_ok() {
            return Some(socket.local_addr().ok()?.ip());
        }
    }
    None
}

/// The script and how it is called.
pub struct Calls {
    prefix: String,
    script: Script,
}

impl Calls {
    /// Calls about keys that begin with `{prefix}:`.
    pub fn new(prefix: &str) -> Arc<Calls> {
        Arc::new(Calls {
            prefix: format!("{{{prefix}}}"),
            script: Script::new(SOURCE),
        })
    }

    /// The prefix of all keys, with its hash tag.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn command(&self, name: &str, script: &str, operation: &str, now: Millis) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(1).arg(&self.prefix);
        command.arg(operation).arg(now);
        command
    }

    /// Sends `bytes` to all processes but one that hold sockets of a user.
    fn tell(&self, user: &str, except: &str, bytes: &[u8]) -> Cmd {
        let mut command = self.command("EVALSHA", self.script.get_hash(), "tell", 0);
        let arguments = json!({ "user": user, "except": except });
        command.arg(arguments.to_string()).arg(bytes);
        command
    }

    /// Makes the server know the script.
    async fn load(&self, commands: &Commands) -> RedisResult<()> {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(SOURCE);
        commands.query::<Value>(&command).await.map(|_| ())
    }
}

/// A [`Registry`] in Redis 6.2 or later, or Valkey.
pub struct RedisRegistry {
    calls: Arc<Calls>,
    /// What the member says, one operation after the other.
    commands: Commands,
    /// Questions. Who gives up waiting for an answer puts only their connection in
    /// doubt.
    questions: Commands,
    reader: Commands,
    /// Only tests say what time it is, and which run of the server this is.
    clock: Option<Clock>,
}

type Clock = Box<dyn Fn() -> (Millis, String) + Send + Sync>;

impl RedisRegistry {
    /// Connects when it is first asked.
    pub fn new(server: Arc<Server>, calls: Arc<Calls>) -> RedisRegistry {
        RedisRegistry {
            calls,
            commands: Commands::new(server.clone()),
            questions: Commands::new(server.clone()),
            reader: Commands::that_wait(server),
            clock: None,
        }
    }

    /// The same, with the time and the server's run told by `clock`.
    #[cfg(test)]
    fn with_clock(
        mut self,
        clock: impl Fn() -> (Millis, String) + Send + Sync + 'static,
    ) -> RedisRegistry {
        self.clock = Some(Box::new(clock));
        self
    }

    async fn call(&self, operation: &str, arguments: Json) -> Result<Value, Unavailable> {
        self.call_on(&self.commands, operation, arguments).await
    }

    /// A question. It may be put twice: the connection may have ended since the last
    /// one without anybody noticing, after a failover for instance.
    async fn ask(&self, question: &str, arguments: Json) -> Result<Value, Unavailable> {
        let asked = self.call_on(&self.questions, question, arguments.clone());
        match asked.await {
            Ok(answer) => Ok(answer),
            Err(_) => self.call_on(&self.questions, question, arguments).await,
        }
    }

    async fn call_on(
        &self,
        commands: &Commands,
        operation: &str,
        mut arguments: Json,
    ) -> Result<Value, Unavailable> {
        let mut now = 0;
        if let Some(clock) = &self.clock {
            let (time, run) = clock();
            now = time;
            arguments["run"] = run.into();
        }
        let arguments = arguments.to_string();
        let hash = self.calls.script.get_hash();
        let mut known = self.calls.command("EVALSHA", hash, operation, now);
        match commands.query(known.arg(&arguments)).await {
            Err(error) if is_unknown_script(&error) => {
                let mut whole = self.calls.command("EVAL", SOURCE, operation, now);
                let answer = commands.query(whole.arg(&arguments));
                answer.await.map_err(unavailable)
            }
            result => result.map_err(unavailable),
        }
    }

    /// The same for an operation that only the holder of a lease may do.
    async fn guarded(&self, operation: &str, arguments: Json) -> Guarded<Answer> {
        let mut answer = Answer::of(self.call(operation, arguments).await?)?;
        Ok(match answer.number()? {
            0 => Err(Fenced),
            _ => Ok(answer),
        })
    }
}

fn unavailable(error: RedisError) -> Unavailable {
    Unavailable(error.to_string())
}

fn nonsense(what: &str) -> Unavailable {
    Unavailable(format!("its answer has no {what}"))
}

/// An answer of the script, read from front to back.
struct Answer(std::vec::IntoIter<Value>);

impl Answer {
    fn of(value: Value) -> Result<Answer, Unavailable> {
        match value {
            Value::Array(values) => Ok(Answer(values.into_iter())),
            Value::Nil => Ok(Answer(Vec::new().into_iter())),
            _ => Err(nonsense("list")),
        }
    }

    fn next(&mut self) -> Result<Value, Unavailable> {
        self.0.next().ok_or_else(|| nonsense("more items"))
    }

    fn number(&mut self) -> Result<i64, Unavailable> {
        match self.next()? {
            Value::Int(number) => Ok(number),
            _ => Err(nonsense("number")),
        }
    }

    fn millis(&mut self) -> Result<Option<Millis>, Unavailable> {
        Ok(Millis::try_from(self.number()?).ok())
    }

    fn text(&mut self) -> Result<Arc<str>, Unavailable> {
        text(self.next()?)
    }

    fn list(&mut self) -> Result<Answer, Unavailable> {
        Answer::of(self.next()?)
    }

    fn texts(self) -> Result<Vec<Arc<str>>, Unavailable> {
        self.0.map(text).collect()
    }

    fn read<T: serde::de::DeserializeOwned>(self) -> Result<Vec<T>, Unavailable> {
        self.0
            .map(|value| serde_json::from_str(&text(value)?).map_err(|_| nonsense("JSON")))
            .collect()
    }
}

fn text(value: Value) -> Result<Arc<str>, Unavailable> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes)
            .map(Into::into)
            .map_err(|_| nonsense("UTF-8")),
        Value::SimpleString(text) => Ok(text.into()),
        _ => Err(nonsense("text")),
    }
}

/// Whose, as the script writes it: `TYPE:USER`.
fn who(name: &str) -> Result<Who, Unavailable> {
    let (kind, user) = name.split_once(':').ok_or_else(|| nonsense("user"))?;
    Ok(Who {
        user: user.into(),
        kind: kind.into(),
    })
}

fn edge(fields: Value) -> Result<Edge, Unavailable> {
    let mut fields = Answer::of(fields)?;
    let (mut whose, mut online, mut rev, mut at) = (None, false, 0, 0);
    let (mut rooms, mut others) = (Vec::new(), None);
    while let Ok(name) = fields.text() {
        let value = fields.text()?;
        let number = || value.parse().map_err(|_| nonsense("number"));
        match &*name {
            "w" => whose = Some(who(&value)?),
            "o" => online = &*value == "1",
            "r" => rev = number()?,
            "t" => at = number()?,
            "m" => rooms = room_names(&value)?,
            "k" => others = Some(room_names(&value)?),
            _ => {}
        }
    }
    Ok(Edge {
        who: whose.ok_or_else(|| nonsense("user"))?,
        online,
        rev,
        at,
        rooms,
        others,
    })
}

/// In their order, whatever it was.
fn room_names(json: &str) -> Result<Vec<RoomName>, Unavailable> {
    let mut rooms: Vec<RoomName> = serde_json::from_str(json).map_err(|_| nonsense("rooms"))?;
    rooms.sort_unstable();
    Ok(rooms)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn list<T: Serialize>(items: &[T]) -> Json {
    // Only maps with other keys than text fail, and there are none.
    serde_json::to_value(items).unwrap_or_default()
}

impl Registry for RedisRegistry {
    async fn join(
        &self,
        info: &NodeInfo,
        ttl: Millis,
        known: Option<&str>,
    ) -> Result<Joined, Unavailable> {
        let mut fresh = [0; 20];
        getrandom::fill(&mut fresh).map_err(|error| Unavailable(error.to_string()))?;
        let mut arguments = json!({
            "process": info.process(),
            "node": info.node_id,
            "fresh": hex(&fresh[..4]),
            "secret": hex(&fresh[4..]),
            "ttl": ttl,
            "info": serde_json::to_string(info).unwrap_or_default(),
        });
        if let Some(known) = known {
            arguments["known"] = known.into();
        }
        let mut answer = Answer::of(self.call("join", arguments).await?)?;
        Ok(Joined {
            incarnation: answer.text()?,
            epoch: answer.text()?,
            secret: answer.text()?,
            last_edge: answer.text()?,
            earlier: answer.list()?.texts()?,
        })
    }

    async fn renew(&self, incarnation: &str, ttl: Millis, done: &[Arc<str>]) -> Guarded<Renewed> {
        let arguments = json!({ "incarnation": incarnation, "ttl": ttl, "done": done });
        let answer = self.guarded("renew", arguments).await?;
        answer
            .map(|mut answer| {
                Ok(Renewed {
                    losers: answer.list()?.read()?,
                    next_due: answer.millis()?,
                    rank: answer.number()? as u32,
                })
            })
            .map_or_else(|fenced| Ok(Err(fenced)), |renewed| renewed.map(Ok))
    }

    async fn connect(&self, incarnation: &str, newcomers: &[Newcomer]) -> Guarded<Vec<Admission>> {
        let arguments = json!({ "incarnation": incarnation, "newcomers": list(newcomers) });
        let mut answer = match self.guarded("connect", arguments).await? {
            Ok(answer) => answer,
            Err(Fenced) => return Ok(Err(Fenced)),
        };
        let mut admissions = Vec::with_capacity(newcomers.len());
        for value in answer.list()?.0 {
            admissions.push(match value {
                Value::Int(_) => Admission::Refused,
                losers => Admission::Admitted(Answer::of(losers)?.read()?),
            });
        }
        if admissions.len() != newcomers.len() {
            return Err(nonsense("answer for everybody"));
        }
        Ok(Ok(admissions))
    }

    async fn depart(
        &self,
        incarnation: &str,
        departures: &[Departure],
        grace: Millis,
    ) -> Guarded<Vec<bool>> {
        let arguments = json!({
            "incarnation": incarnation, "departures": list(departures), "grace": grace,
        });
        let mut answer = match self.guarded("depart", arguments).await? {
            Ok(mut answer) => answer.list()?,
            Err(Fenced) => return Ok(Err(Fenced)),
        };
        let mut linger = Vec::with_capacity(departures.len());
        for _ in departures {
            linger.push(answer.number()? == 1);
        }
        Ok(Ok(linger))
    }

    async fn restore(&self, incarnation: &str, users: &[Restored]) -> Guarded<Vec<Loser>> {
        let arguments = json!({ "incarnation": incarnation, "users": list(users) });
        match self.guarded("restore", arguments).await? {
            Ok(mut answer) => Ok(Ok(answer.list()?.read()?)),
            Err(Fenced) => Ok(Err(Fenced)),
        }
    }

    async fn retire(&self, incarnations: &[Arc<str>]) -> Result<(), Unavailable> {
        let arguments = json!({ "incarnations": incarnations });
        self.call("retire", arguments).await.map(|_| ())
    }

    async fn tend(&self, limit: u32, grace: Millis, ttl: Millis) -> Result<Tended, Unavailable> {
        let arguments = json!({ "limit": limit, "grace": grace, "ttl": ttl });
        let mut answer = Answer::of(self.call("tend", arguments).await?)?;
        Ok(Tended {
            swept: answer.number()? as u32,
            ended: answer.list()?.texts()?,
            next_due: answer.millis()?,
        })
    }

    async fn edges(&self, last: &EdgeId) -> Result<Edges, Unavailable> {
        let mut command: Cmd = redis::cmd("XREAD");
        command.arg("COUNT").arg(READ);
        command.arg("BLOCK").arg(BLOCK.as_millis() as u64);
        command
            .arg("STREAMS")
            .arg(format!("{}:edges", self.calls.prefix))
            .arg(&**last);
        // No answer is one too, but a late one.
        let answer = tokio::time::timeout(BLOCK * 2, self.reader.query::<Value>(&command));
        let answer = answer
            .await
            .map_err(|_| Unavailable("no answer in time".into()))?
            .map_err(unavailable)?;
        // RESP3: a map of streams; RESP2: a list of pairs.
        let entries = match answer {
            Value::Nil => return Ok(Edges::default()),
            Value::Map(streams) => streams.into_iter().next().map(|(_, entries)| entries),
            streams => {
                let mut stream = Answer::of(streams)?.list()?;
                stream.next()?;
                Some(stream.next()?)
            }
        };
        let mut edges = Edges::default();
        for entry in Answer::of(entries.unwrap_or(Value::Nil))?.0 {
            let mut entry = Answer::of(entry)?;
            edges.last = Some(entry.text()?);
            edges.edges.push(edge(entry.next()?)?);
        }
        Ok(edges)
    }

    async fn look_up(&self, users: &[UserName]) -> Result<Vec<Known>, Unavailable> {
        let answer = Answer::of(self.ask("look_up", json!({ "users": users })).await?)?;
        let mut all = Vec::with_capacity(users.len());
        for known in answer.0 {
            let mut known = Answer::of(known)?;
            let lingers = known.number()? == 1;
            let seen = known.millis()?.filter(|seen| *seen > 0);
            let sockets: Vec<Seen> = known.list()?.read()?;
            all.push(Known {
                online: lingers || !sockets.is_empty(),
                sockets,
                last_seen: seen,
            });
        }
        Ok(all)
    }

    async fn audit(
        &self,
        incarnation: &str,
        users: &[UserName],
        sample: u32,
    ) -> Result<Audit, Unavailable> {
        let arguments = json!({ "incarnation": incarnation, "users": users, "sample": sample });
        let mut answer = Answer::of(self.call("audit", arguments).await?)?;
        let mut audit = Audit::default();
        for sockets in answer.list()?.0 {
            let mut there = Vec::new();
            for socket in Answer::of(sockets)?.0 {
                let mut socket = Answer::of(socket)?;
                let name = socket.text()?;
                let mut rooms = socket.texts()?;
                rooms.sort_unstable();
                there.push((name, rooms));
            }
            audit.asked.push(there);
        }
        let mut sample = answer.list()?;
        while let Ok(socket) = sample.text() {
            audit.sample.push((socket, who(&sample.text()?)?));
        }
        Ok(audit)
    }

    async fn nodes(&self) -> Result<Vec<NodeState>, Unavailable> {
        let answer = Answer::of(self.ask("nodes", json!({})).await?)?;
        let mut nodes = Vec::new();
        for node in answer.0 {
            let mut node = Answer::of(node)?;
            let incarnation = node.text()?;
            let lease = node.number()?;
            let info: NodeInfo =
                serde_json::from_str(&node.text()?).map_err(|_| nonsense("node's name"))?;
            nodes.push(NodeState {
                incarnation,
                lease,
                info,
                sockets: node.number()? as u64,
            });
        }
        Ok(nodes)
    }
}
