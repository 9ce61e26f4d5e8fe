-- Invites to conversations, and who has come by which. The times are Unix milliseconds.
CREATE TABLE invite (
    code TEXT PRIMARY KEY,
    conversation INTEGER NOT NULL,
    created_by TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    max_uses INTEGER,
    uses INTEGER NOT NULL DEFAULT 0,
    revoked_at INTEGER,
    label TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX invite_conversation ON invite (conversation);

CREATE TABLE invite_use (
    code TEXT NOT NULL,
    person INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (code, person)
) STRICT, WITHOUT ROWID;
