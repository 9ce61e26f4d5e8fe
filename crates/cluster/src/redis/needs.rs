//! Which commands a node gives its server: the one list of them, and which of them the user of a
//! URL may not give.
//!
//! Each is tried with arguments that leave nothing behind. A server says that a command is
//! forbidden before it looks at what it is about, so those that would write are asked for what
//! cannot be done; what that would not do for is taken away in the same step.

use redis::{Cmd, RedisError, Value};

use super::server::Connection;

/// Where a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Any server.
    All,
    /// One server, which is no Redis Cluster.
    One,
    /// A Redis Cluster.
    Cluster,
}

/// What stands for the key and the channels that are tried: nodes use those of the prefix with
/// braces, and without.
const KEY: &str = "KEY";
const CHANNEL: &str = "CHANNEL";
const BESIDE: &str = "BESIDE";
/// The hash of no script.
const NO_SCRIPT: &str = "ffffffffffffffffffffffffffffffffffffffff";

/// What a node says to its server itself.
const SAID: &[(Of, &[&str])] = &[
    (Of::All, &["EVAL", "return 1", "1", KEY]),
    (Of::All, &["EVALSHA", NO_SCRIPT, "1", KEY]),
    (Of::All, &["SCRIPT", "LOAD", "return 1"]),
    (Of::All, &["XREAD", "COUNT", "1", "STREAMS", KEY, "$"]),
    (Of::All, &["HGET", KEY, "p"]),
    (Of::All, &["TYPE", KEY]),
    (Of::All, &["PUBLISH", CHANNEL, ""]),
    (Of::Cluster, &["SPUBLISH", CHANNEL, ""]),
    (Of::All, &["SUBSCRIBE", CHANNEL]),
    (Of::All, &["UNSUBSCRIBE", CHANNEL]),
    (Of::All, &["PUBLISH", BESIDE, ""]),
    (Of::All, &["SUBSCRIBE", BESIDE]),
    (Of::All, &["UNSUBSCRIBE", BESIDE]),
    (Of::Cluster, &["SSUBSCRIBE", CHANNEL]),
    (Of::Cluster, &["SUNSUBSCRIBE", CHANNEL]),
    (Of::All, &["PING"]),
    (Of::All, &["INFO", "server"]),
    (Of::All, &["TIME"]),
    (Of::One, &["ROLE"]),
];

/// What scripts do. The first takes away what others leave.
const IN_SCRIPTS: &[(Of, &[&str])] = &[
    (Of::All, &["DEL", KEY]),
    (Of::All, &["DECRBY", KEY, "no"]),
    (Of::All, &["EXISTS", KEY]),
    (Of::All, &["EXPIRE", KEY, "1"]),
    (Of::All, &["GET", KEY]),
    (Of::All, &["HDEL", KEY, "f"]),
    (Of::All, &["HEXISTS", KEY, "f"]),
    (Of::All, &["HGET", KEY, "f"]),
    (Of::All, &["HGETALL", KEY]),
    (Of::All, &["HINCRBY", KEY, "f", "no"]),
    (Of::All, &["HLEN", KEY]),
    (Of::All, &["HMGET", KEY, "f"]),
    (Of::All, &["HRANDFIELD", KEY]),
    (Of::All, &["HSCAN", KEY, "0"]),
    (Of::All, &["HSET", KEY, "f", "v", "odd"]),
    (Of::All, &["HSTRLEN", KEY, "f"]),
    (Of::All, &["HVALS", KEY]),
    (Of::All, &["INCRBY", KEY, "no"]),
    (Of::All, &["INFO", "server"]),
    (Of::All, &["LINDEX", KEY, "0"]),
    (Of::All, &["LPOP", KEY]),
    (Of::All, &["LRANGE", KEY, "0", "0"]),
    (Of::All, &["PERSIST", KEY]),
    (Of::All, &["PEXPIRE", KEY, "1"]),
    (Of::All, &["PTTL", KEY]),
    (Of::All, &["PUBLISH", CHANNEL, ""]),
    (Of::All, &["PUBSUB", "NUMSUB", CHANNEL]),
    (Of::All, &["SCARD", KEY]),
    (Of::All, &["SET", KEY, "v", "no"]),
    (Of::All, &["SISMEMBER", KEY, "m"]),
    (Of::All, &["SMEMBERS", KEY]),
    (Of::Cluster, &["SPUBLISH", CHANNEL, ""]),
    (Of::All, &["SREM", KEY, "m"]),
    (Of::All, &["TIME"]),
    (Of::All, &["XADD", KEY, "no", "f", "v"]),
    (Of::All, &["XINFO", "STREAM", KEY]),
    (Of::All, &["XRANGE", KEY, "-", "+"]),
    (Of::All, &["XREVRANGE", KEY, "+", "-"]),
    (Of::All, &["XTRIM", KEY, "MAXLEN", "no"]),
    (Of::All, &["ZADD", KEY, "no", "m"]),
    (Of::All, &["ZCARD", KEY]),
    (Of::All, &["ZCOUNT", KEY, "0", "0"]),
    (Of::All, &["ZPOPMIN", KEY]),
    (Of::All, &["ZRANGE", KEY, "0", "0"]),
    (Of::All, &["ZRANGEBYSCORE", KEY, "0", "0"]),
    (Of::All, &["ZRANK", KEY, "m"]),
    (Of::All, &["ZREM", KEY, "m"]),
    (Of::All, &["ZSCORE", KEY, "m"]),
    // What these write is gone when the script is over.
    (Of::All, &["INCR", KEY]),
    (Of::All, &["DEL", KEY]),
    (Of::All, &["RPUSH", KEY, "v"]),
    (Of::All, &["DEL", KEY]),
    (Of::All, &["SADD", KEY, "m"]),
    (Of::All, &["DEL", KEY]),
];

/// Does what it is told, unless nothing could be taken away again; what was said of each.
const TRY: &str = "local said, all = {}, cjson.decode(ARGV[1]) \
                   for i, words in ipairs(all) do \
                   local did = redis.pcall(unpack(words)) \
                   said[i] = type(did) == 'table' and did.err or '' \
                   if i == 1 and said[1] ~= '' then return said end end \
                   return said";

/// Whether a server says that a command, or its key or channel, is not for this user; in a script
/// it says so in its own words, and in those of its version.
fn is_forbidden(said: &str) -> bool {
    ["NOPERM", "ACL failure", "user executing the script can't"]
        .iter()
        .any(|words| said.contains(words))
}

async fn ask(connection: &mut Connection, command: &Cmd) -> Result<Value, RedisError> {
    command.query_async(connection).await
}

/// The name of a command as an operator allows it.
fn name(words: &[&str]) -> String {
    let name = words.first().map_or("", |name| name);
    match name {
        "SCRIPT" | "PUBSUB" | "XINFO" => format!("{name} {}", words[1]),
        name => name.to_owned(),
    }
}

/// The commands that the user of a connection may not give, with the keys and channels of this
/// prefix, each once. A failure of another kind is none of them.
pub(crate) async fn forbidden(connection: &mut Connection, prefix: &str) -> Vec<String> {
    let is_cluster = matches!(connection, Connection::Cluster(_));
    let is_of = |of: Of| match of {
        Of::All => true,
        Of::One => !is_cluster,
        Of::Cluster => is_cluster,
    };
    let here = format!("{prefix}:doctor");
    let beside = here.replace(['{', '}'], "");
    let real = |word: &&str| match *word {
        KEY | CHANNEL => here.clone(),
        BESIDE => beside.clone(),
        word => word.to_owned(),
    };
    let mut missing: Vec<String> = Vec::new();
    let mut note = |words: &[&str], said: &str| {
        let name = name(words);
        if is_forbidden(said) && !missing.contains(&name) {
            missing.push(name);
        }
    };
    for (_, words) in SAID.iter().filter(|(of, _)| is_of(*of)) {
        let mut command = Cmd::new();
        words.iter().map(real).for_each(|word| {
            command.arg(word);
        });
        if let Err(error) = ask(connection, &command).await {
            note(words, &format!("{} {error}", error.code().unwrap_or("")));
        }
    }
    let tried: Vec<&[&str]> = IN_SCRIPTS
        .iter()
        .filter(|(of, _)| is_of(*of))
        .map(|(_, words)| *words)
        .collect();
    let all: Vec<Vec<String>> = tried
        .iter()
        .map(|words| words.iter().map(real).collect())
        .collect();
    let mut command = redis::cmd("EVAL");
    command.arg(TRY).arg(1).arg(&here);
    command.arg(serde_json::json!(all).to_string());
    let said: Vec<String> = command.query_async(connection).await.unwrap_or_default();
    for (words, said) in tried.iter().zip(&said) {
        note(words, said);
    }
    missing
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::super::condition::ANSWER_TIMEOUT;
    use super::super::server::Server;
    use super::super::tests::Redis;
    use super::*;

    /// Words in scripts that are no commands.
    const OPTIONS: &[&str] = &[
        "COUNT",
        "EX",
        "GT",
        "LIMIT",
        "MAXLEN",
        "MINID",
        "NUMSUB",
        "NX",
        "OK",
        "PX",
        "STREAM",
        "WITHSCORES",
        "WITHVALUES",
        "XX",
    ];

    fn listed(list: &[(Of, &[&'static str])]) -> BTreeSet<&'static str> {
        list.iter().map(|(_, words)| words[0]).collect()
    }

    /// Words of capital letters between these quotes.
    fn words(text: &str, quote: char) -> BTreeSet<&str> {
        let is_word =
            |word: &&str| word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase());
        text.split(quote).filter(is_word).collect()
    }

    fn sources(folder: &Path, of: &str, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let is_test = ["test", "simulation", "by_hand", "builds", "mended"]
                .iter()
                .any(|part| name.contains(part));
            if is_test || name == "needs.rs" {
                continue;
            }
            if path.is_dir() {
                sources(&path, of, found);
            } else if name.ends_with(of) {
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }

    fn all_sources(of: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        sources(&folder, of, &mut found);
        assert!(!found.is_empty());
        found
    }

    #[test]
    fn scripts_do_nothing_that_is_not_listed() {
        let mut done = BTreeSet::new();
        let scripts = all_sources(".lua");
        for (_, text) in &scripts {
            done.extend(words(text, '\''));
        }
        let mut known = listed(IN_SCRIPTS);
        let unlisted: Vec<_> = done
            .iter()
            .filter(|word| !known.contains(**word) && !OPTIONS.contains(word))
            .collect();
        assert!(unlisted.is_empty(), "{unlisted:?}");
        // Those are done by the reader of changes, in a script of some lines.
        for word in ["XINFO", "XRANGE"] {
            assert!(known.remove(word), "{word}");
        }
        let unused: Vec<_> = known.iter().filter(|word| !done.contains(**word)).collect();
        assert!(unused.is_empty(), "{unused:?}");
    }

    #[test]
    fn nodes_say_nothing_that_is_not_listed() {
        let known = listed(SAID);
        let mut said = BTreeSet::new();
        let files = all_sources(".rs");
        for (name, text) in &files {
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            for call in text.split("cmd(").skip(1) {
                let call = call.split([';', '\n']).next().unwrap();
                said.extend(words(call, '"').into_iter().map(|word| (word, name)));
            }
        }
        assert!(said.iter().any(|(word, _)| *word == "XREAD"));
        // Sentinels are asked that, which have users of their own.
        said.retain(|(word, _)| *word != "SENTINEL" && !known.contains(word));
        assert!(said.is_empty(), "{said:?}");
    }

    #[tokio::test]
    async fn each_command_that_is_forbidden_is_found_and_nothing_is_left_behind() {
        let redis = Redis::start();
        let server = Server::parse(&redis.url).unwrap();
        let mut connection = server.open_any(ANSWER_TIMEOUT).await.unwrap();
        let mut own = server.open_any(ANSWER_TIMEOUT).await.unwrap();
        let mut may = async |what: &str| {
            let mut command = redis::cmd("ACL");
            command.arg("SETUSER").arg("default").arg(what);
            ask(&mut own, &command).await.unwrap();
        };
        assert_eq!(forbidden(&mut connection, "{hl}").await, [""; 0]);
        let all = listed(SAID).into_iter().chain(listed(IN_SCRIPTS));
        for name in all.collect::<BTreeSet<_>>() {
            let of = SAID.iter().chain(IN_SCRIPTS);
            if of
                .clone()
                .all(|(of, words)| words[0] != name || *of == Of::Cluster)
            {
                continue;
            }
            may(&format!("-{}", name.to_lowercase())).await;
            let found = forbidden(&mut connection, "{hl}").await;
            may(&format!("+{}", name.to_lowercase())).await;
            let is_it = |found: &String| found.split(' ').next() == Some(name);
            assert!(
                found.iter().all(is_it) && found.len() == 1,
                "{name}: {found:?}"
            );
        }
        may("resetkeys").await;
        may("~other*").await;
        let found = forbidden(&mut connection, "{hl}").await;
        assert!(found.iter().any(|name| name == "XREAD"), "{found:?}");
        may("allkeys").await;
        may("resetchannels").await;
        may("&{hl}:*").await;
        let found = forbidden(&mut connection, "{hl}").await;
        assert_eq!(found, ["PUBLISH", "SUBSCRIBE"]);
        let left: u64 = redis::cmd("DBSIZE")
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(left, 0);
    }
}
