-- What a user's clients keep for the next time: an object as JSON, and names of rooms, a line each.
CREATE TABLE checkpoint (
    person INTEGER PRIMARY KEY,
    metadata TEXT NOT NULL,
    rooms TEXT NOT NULL,
    version INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL
) STRICT;
