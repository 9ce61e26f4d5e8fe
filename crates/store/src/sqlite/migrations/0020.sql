-- What is done every so often, and when it was done last.
CREATE TABLE job (
    name TEXT PRIMARY KEY,
    last_at INTEGER
) STRICT, WITHOUT ROWID;
