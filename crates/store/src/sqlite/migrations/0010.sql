-- Challenges that are open, in the order in which they were given out. Who uses one deletes it.
CREATE TABLE challenge (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    wallet BLOB NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX challenge_wallet ON challenge (wallet);
CREATE INDEX challenge_expiry ON challenge (expires_at);
