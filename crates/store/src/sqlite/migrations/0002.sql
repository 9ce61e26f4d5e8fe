-- Who belongs to which conversation, and how far each has read. `invited` is 1 for members who
-- may join whatever rooms their tokens name.
CREATE TABLE member (
    conversation INTEGER NOT NULL,
    person INTEGER NOT NULL,
    invited INTEGER NOT NULL CHECK (invited IN (0, 1)),
    joined_at INTEGER NOT NULL,
    read_offset INTEGER NOT NULL DEFAULT 0,
    read_at INTEGER,
    PRIMARY KEY (conversation, person)
) STRICT, WITHOUT ROWID;
CREATE INDEX member_person ON member (person);
