-- Users as senders. NULL is a value of its own in both indexes: no text equals a blob.
CREATE TABLE person (
    id INTEGER PRIMARY KEY,
    tenant TEXT,
    user_id TEXT NOT NULL,
    kind TEXT
) STRICT;
CREATE UNIQUE INDEX person_key ON person (user_id, ifnull(tenant, x'00'), ifnull(kind, x'00'));

-- Conversations and open rooms. `head` is the offset of the last message, `floor` that of the
-- last one that is not kept any more.
CREATE TABLE conversation (
    id INTEGER PRIMARY KEY,
    tenant TEXT,
    kind TEXT NOT NULL CHECK (kind IN ('conversation', 'room')),
    name TEXT NOT NULL,
    head INTEGER NOT NULL,
    floor INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX conversation_key ON conversation (name, kind, ifnull(tenant, x'00'));

-- In the order in which they came: a transaction fills few pages. `key` is the sender's tempId.
CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    sender INTEGER NOT NULL,
    key TEXT,
    content TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX message_place ON message (conversation, "offset");
CREATE UNIQUE INDEX message_key ON message (sender, conversation, key) WHERE key IS NOT NULL;
