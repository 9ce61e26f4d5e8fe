//! The registry in Redis: each operation is a call of the script.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, RedisError, Value};
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::answer::{Answer, Record, nonsense, record, typed_user};
use super::calls::Calls;
use super::server::{Commands, Server, is_not_understood, is_unknown_script};
use crate::registry::{
    Admission, Announced, Arrival, Audit, Departure, Displaced, Doubts, EdgeId, Edges, Entry,
    Fenced, Guarded, Joined, Known, Maintained, Marked, Millis, Newcomer, NodeInfo, NodeState,
    Registry, Renewed, Restored, Stranger, Stream, Sum, Suspicion, Turn, TypedUser, Unavailable,
    UserName, Verdict, Versions, tag_of_process,
};

/// How long a read of the stream may take, of which it waits some seconds at the server.
const MAX_READ: Duration = Duration::from_secs(6);
/// Edges in one read.
const MAX_EDGES_PER_READ: usize = 4096;
/// Tells the last id that the stream of edges has given, the number of the last edge, and that of
/// what is at an id: 0 of what is no edge, -1 if nothing is there.
const STREAM: &str = "local number, at = tonumber(redis.call('GET', KEYS[2]) or 0), -1 \
                      if redis.call('EXISTS', KEYS[1]) == 0 then return {'0-0', number, at} end \
                      local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1] \
                      for i = 1, found and #found[2] - 1 or 0, 2 do at = math.max(at, 0) \
                      if found[2][i] == 'n' then at = tonumber(found[2][i + 1]) or 0 end end \
                      local info = redis.pcall('XINFO', 'STREAM', KEYS[1]) \
                      for i = 1, #info - 1, 2 do if info[i] == 'last-generated-id' then \
                      return {info[i + 1], number, at} end end";

/// A [`Registry`] in Redis 6.2 or later, or Valkey.
pub struct RedisRegistry {
    calls: Arc<Calls>,
    doubts: Doubts,
    /// Whether the server knows who listens where: one of many does not.
    knows_listeners: bool,
    /// What the member says, one operation after the other.
    commands: Commands,
    /// Questions. A caller that gives up waiting for an answer puts only their
    /// connection in doubt.
    questions: Commands,
    reader: Commands,
    /// Set by tests alone: what time it is, and which run of the server this is.
    clock: Option<Clock>,
}

type Clock = Box<dyn Fn() -> (Millis, String) + Send + Sync>;

impl RedisRegistry {
    /// Connects when it is first asked.
    pub fn new(server: Arc<Server>, calls: Arc<Calls>, doubts: Doubts) -> RedisRegistry {
        RedisRegistry {
            calls,
            doubts,
            knows_listeners: !server.is_cluster(),
            commands: Commands::once(server.clone()),
            questions: Commands::new(server.clone()),
            reader: Commands::that_wait(server),
            clock: None,
        }
    }

    /// The same, with the time and the server's run told by `clock`.
    #[cfg(test)]
    pub(super) fn with_clock(
        mut self,
        clock: impl Fn() -> (Millis, String) + Send + Sync + 'static,
    ) -> RedisRegistry {
        self.clock = Some(Box::new(clock));
        // Nobody listens in a test of the registry alone.
        self.knows_listeners = false;
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
        let hash = self.calls.hash();
        let mut known = self.calls.command("EVALSHA", hash, operation, now);
        match commands.query(known.arg(&arguments)).await {
            Err(error) if is_unknown_script(&error) => {
                let mut whole = self
                    .calls
                    .command("EVAL", self.calls.source(), operation, now);
                let mut answer = commands.query(whole.arg(&arguments)).await;
                if answer.as_ref().is_err_and(is_not_understood) && self.calls.try_plain() {
                    let mut plain = self
                        .calls
                        .command("EVAL", self.calls.source(), operation, now);
                    answer = commands.query(plain.arg(&arguments)).await;
                }
                answer.map_err(unavailable)
            }
            result => result.map_err(unavailable),
        }
    }

    /// The same for an operation with a number.
    async fn numbered(
        &self,
        operation: &str,
        turn: Turn<'_>,
        mut arguments: Json,
    ) -> Guarded<Answer> {
        arguments["incarnation"] = turn.incarnation.into();
        arguments["number"] = turn.number.into();
        self.guarded(operation, arguments).await
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

/// What is known of one user.
fn known_of(mut known: Answer) -> Result<Known, Unavailable> {
    let lingers = known.number()? == 1;
    let last_seen = known.millis()?.filter(|seen| *seen > 0);
    let sockets = known.list()?.sockets()?;
    let mut told = known.list()?;
    let mut announced = Vec::with_capacity(told.0.len() / 5);
    while told.0.len() > 0 {
        announced.push(Announced {
            kind: told.text()?,
            online: told.number()? == 1,
            rev: told.millis()?.unwrap_or(0),
            last_seen: told.millis()?.filter(|seen| *seen > 0),
            lingers: told.number()? == 1,
        });
    }
    let devices_from = known.millis()?;
    Ok(Known {
        online: lingers || !sockets.is_empty(),
        sockets,
        last_seen,
        announced,
        devices_from,
    })
}

/// A node of which no more can be read than its name.
fn nameless(incarnation: &str) -> NodeInfo {
    let process = incarnation.rsplit_once('.').map(|(process, _)| process);
    let node_id = process.and_then(|process| process.rsplit_once('.'));
    NodeInfo {
        node_id: node_id.map_or(incarnation, |(node_id, _)| node_id).into(),
        tag: process.and_then(tag_of_process).unwrap_or(0),
        ..NodeInfo::default()
    }
}

fn unavailable(error: RedisError) -> Unavailable {
    Unavailable(error.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn list<T: Serialize>(items: &[T]) -> Json {
    // Only maps with other keys than text fail, and there are none.
    serde_json::to_value(items).unwrap_or_default()
}

/// An entry with its mark, as the script wants it.
fn marked<T: Serialize>(what: &T, who: &TypedUser, entry: &Entry) -> Json {
    let mut json = serde_json::to_value(what).unwrap_or_default();
    json["h"] = entry.mark(who).to_string().into();
    json
}

fn restored(user: &Restored) -> Json {
    let mut json = serde_json::to_value(user).unwrap_or_default();
    let entries = user.entries.iter();
    json["e"] = entries
        .map(|entry| marked(entry, &user.who, entry))
        .collect();
    json
}

impl Registry for RedisRegistry {
    async fn join(
        &self,
        info: &NodeInfo,
        ttl: Millis,
        known: Option<&str>,
        living: u32,
        rev: u64,
    ) -> Result<Result<Joined, Stranger>, Unavailable> {
        let mut fresh = [0; 20];
        getrandom::fill(&mut fresh).map_err(|error| Unavailable(error.to_string()))?;
        let mut arguments = json!({
            "process": info.process(),
            "node": info.node_id,
            "fresh": hex(&fresh[..4]),
            "secret": hex(&fresh[4..]),
            "ttl": ttl,
            "living": living,
            "rev": rev,
            "info": serde_json::to_string(info).unwrap_or_default(),
            "proto": info.proto,
        });
        if let Some(known) = known {
            arguments["known"] = known.into();
        }
        let mut answer = Answer::of(self.call("join", arguments).await?)?;
        if answer.number()? == 0 {
            let node_id = answer.text()?;
            let [min, max] = [answer.number()? as u32, answer.number()? as u32];
            let versions = Versions { min, max };
            return Ok(Err(Stranger { node_id, versions }));
        }
        Ok(Ok(Joined {
            incarnation: answer.text()?,
            epoch: answer.text()?,
            secret: answer.text()?,
            last_edge: answer.text()?,
            edge_number: answer.number()? as u64,
            version: answer.number()? as u32,
            begun_after: (answer.text()?, answer.number()? as u64),
        }))
    }

    async fn renew(
        &self,
        incarnation: &str,
        ttl: Millis,
        done: &[Arc<str>],
        complete: Option<Millis>,
        rev: u64,
    ) -> Guarded<Renewed> {
        let mut arguments =
            json!({ "incarnation": incarnation, "ttl": ttl, "done": done, "rev": rev });
        if let Some(hold) = complete {
            arguments["complete"] = hold.into();
        }
        let answer = self.guarded("renew", arguments).await?;
        answer
            .map(|mut answer| {
                Ok(Renewed {
                    displaced: answer.list()?.read()?,
                    next_due: answer.millis()?,
                    rank: answer.number()? as u32,
                    living: answer.number()? as u32,
                    hold: answer.millis()?.filter(|hold| *hold > 0),
                    members: answer.millis()?.unwrap_or(0),
                    version: answer.number()? as u32,
                    set_aside: answer.millis()?.unwrap_or(0),
                })
            })
            .map_or_else(|fenced| Ok(Err(fenced)), |renewed| renewed.map(Ok))
    }

    async fn suspect(&self, incarnation: &str, suspicion: Suspicion<'_>) -> Guarded<Verdict> {
        let arguments = json!({
            "incarnation": incarnation,
            "whom": suspicion.whom,
            "again": suspicion.again,
            "window": suspicion.window,
            "lasts": suspicion.lasts(),
        });
        // Beside the member's loop, which may be waiting for an answer.
        let answer = self.call_on(&self.questions, "suspect", arguments).await?;
        let mut answer = Answer::of(answer)?;
        if answer.number()? == 0 {
            return Ok(Err(Fenced));
        }
        Ok(Ok(match answer.number()? {
            0 => Verdict::Dead,
            1 => Verdict::Open,
            2 => Verdict::Refuted,
            3 => Verdict::Ends,
            _ => return Err(nonsense("verdict")),
        }))
    }

    async fn connect(&self, turn: Turn<'_>, newcomers: &[Newcomer]) -> Guarded<Vec<Admission>> {
        let all = newcomers.iter();
        let all = all.map(|newcomer| marked(newcomer, &newcomer.who, &newcomer.entry));
        let arguments = json!({
            "newcomers": all.collect::<Vec<Json>>(),
            "doubted": self.doubts.lease_left,
            "again": self.doubts.again,
            "listens": self.knows_listeners,
        });
        let mut answer = match self.numbered("connect", turn, arguments).await? {
            Ok(answer) => answer,
            Err(Fenced) => return Ok(Err(Fenced)),
        };
        let mut admissions = Vec::with_capacity(newcomers.len());
        for value in answer.list()?.0 {
            admissions.push(match value {
                Value::Int(0) => Admission::Refused(None),
                Value::Int(wait) if wait < 0 => Admission::Refused(Some(wait.unsigned_abs())),
                Value::Int(1) => Admission::Admitted,
                Value::Int(2) => Admission::Reserved,
                _ => return Err(nonsense("verdict")),
            });
        }
        if admissions.len() != newcomers.len() {
            return Err(nonsense("answer for everybody"));
        }
        Ok(Ok(admissions))
    }

    async fn establish(&self, turn: Turn<'_>, arrivals: &[Arrival]) -> Guarded<Vec<Displaced>> {
        let arguments = json!({ "arrivals": list(arrivals) });
        match self.numbered("establish", turn, arguments).await? {
            Ok(mut answer) => Ok(Ok(answer.list()?.read()?)),
            Err(Fenced) => Ok(Err(Fenced)),
        }
    }

    async fn depart(&self, turn: Turn<'_>, departures: &[Departure]) -> Guarded<Vec<bool>> {
        let arguments = json!({ "departures": list(departures) });
        let mut answer = match self.numbered("depart", turn, arguments).await? {
            Ok(mut answer) => answer.list()?,
            Err(Fenced) => return Ok(Err(Fenced)),
        };
        let mut linger = Vec::with_capacity(departures.len());
        for _ in departures {
            linger.push(answer.number()? == 1);
        }
        Ok(Ok(linger))
    }

    async fn restore(&self, turn: Turn<'_>, users: &[Restored]) -> Guarded<Vec<Displaced>> {
        let arguments = json!({ "users": users.iter().map(restored).collect::<Vec<Json>>() });
        match self.numbered("restore", turn, arguments).await? {
            Ok(mut answer) => Ok(Ok(answer.list()?.read()?)),
            Err(Fenced) => Ok(Err(Fenced)),
        }
    }

    async fn retire(&self, incarnations: &[Arc<str>]) -> Result<(), Unavailable> {
        let arguments = json!({ "incarnations": incarnations });
        self.call("retire", arguments).await.map(|_| ())
    }

    async fn maintain(
        &self,
        limit: u32,
        grace: Millis,
        ttl: Millis,
    ) -> Result<Maintained, Unavailable> {
        let arguments = json!({ "limit": limit, "grace": grace, "ttl": ttl });
        let mut answer = Answer::of(self.call("maintain", arguments).await?)?;
        Ok(Maintained {
            swept: answer.number()? as u32,
            ended: answer.list()?.texts()?,
            next_due: answer.millis()?,
        })
    }

    async fn edges(&self, last: &EdgeId, wait: Duration) -> Result<Edges, Unavailable> {
        let mut command: Cmd = redis::cmd("XREAD");
        command.arg("COUNT").arg(MAX_EDGES_PER_READ);
        command.arg("BLOCK").arg(wait.as_millis().max(1) as u64);
        command
            .arg("STREAMS")
            .arg(format!("{}:edges", self.calls.prefix()))
            .arg(&**last);
        // No answer is one too, but a late one.
        let answer = tokio::time::timeout(MAX_READ, self.reader.query::<Value>(&command));
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
        let entries = Answer::of(entries.unwrap_or(Value::Nil))?.0;
        edges.is_cut = entries.len() >= MAX_EDGES_PER_READ;
        for entry in entries {
            let mut entry = Answer::of(entry)?;
            edges.last = Some(entry.text()?);
            match record(entry.next()?) {
                Record::Edge(number, edge) => edges.edges.push((number, edge)),
                Record::Devices(change) => edges.devices.push(change),
            }
        }
        Ok(edges)
    }

    async fn stream(&self, place: &EdgeId) -> Result<Option<Stream>, Unavailable> {
        let prefix = self.calls.prefix();
        let mut command = redis::cmd("EVAL");
        command.arg(STREAM).arg(2);
        command
            .arg(format!("{prefix}:edges"))
            .arg(format!("{prefix}:edge"))
            .arg(&**place);
        let answer = tokio::time::timeout(MAX_READ, self.reader.query::<Value>(&command));
        let answer = answer
            .await
            .map_err(|_| Unavailable("no answer in time".into()))?
            .map_err(unavailable)?;
        match answer {
            Value::Nil => Ok(None),
            answer => {
                let mut answer = Answer::of(answer)?;
                Ok(Some(Stream {
                    last: answer.text()?,
                    number: answer.number()? as u64,
                    at: u64::try_from(answer.number()?).ok(),
                }))
            }
        }
    }

    async fn look_up(
        &self,
        incarnation: &str,
        grace: Millis,
        users: &[UserName],
    ) -> Guarded<Vec<Known>> {
        let mut all = Vec::with_capacity(users.len());
        while let rest @ [_, ..] = &users[all.len()..] {
            let arguments = json!({ "incarnation": incarnation, "grace": grace, "users": rest });
            let mut answer = Answer::of(self.ask("look_up", arguments).await?)?;
            if answer.number()? == 0 {
                return Ok(Err(Fenced));
            }
            let before = all.len();
            for known in answer.0 {
                all.push(known_of(Answer::of(known)?)?);
            }
            if all.len() == before || all.len() > users.len() {
                return Err(nonsense("answer for everybody"));
            }
        }
        Ok(Ok(all))
    }

    async fn audit(&self, incarnation: &str, buckets: &[(u8, Sum)]) -> Result<Audit, Unavailable> {
        let asked = buckets.iter();
        let asked = asked.map(|(bucket, Sum(sum))| (format!("{bucket:02x}"), format!("{sum:x}")));
        let arguments = json!({
            "incarnation": incarnation,
            "buckets": asked.collect::<Vec<_>>(),
        });
        let mut answer = Answer::of(self.call("audit", arguments).await?)?;
        let mut audit = Audit {
            looked_at: answer.number()? as usize,
            differing: Vec::new(),
        };
        for bucket in answer.list()?.0 {
            let mut bucket = Answer::of(bucket)?;
            let name = u8::from_str_radix(&bucket.text()?, 16).map_err(|_| nonsense("bucket"))?;
            let (mut there, mut entries) = (Vec::new(), bucket.list()?);
            while let Ok(socket) = entries.text() {
                let (who, number) = (entries.text()?, entries.text()?);
                if let Ok(who) = typed_user(&who) {
                    there.push(Marked {
                        socket,
                        who,
                        number: u64::from_str_radix(&number, 16).unwrap_or(0),
                    });
                }
            }
            audit.differing.push((name, there));
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
                serde_json::from_str(&node.text()?).unwrap_or_else(|_| nameless(&incarnation));
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
