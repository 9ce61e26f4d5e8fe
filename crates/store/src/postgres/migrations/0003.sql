-- Challenges that are open, in the order in which they were given out. Who uses one deletes it.
CREATE TABLE heartline.challenge (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash bytea NOT NULL UNIQUE,
    wallet bytea NOT NULL,
    expires_at bigint NOT NULL
);
CREATE INDEX challenge_wallet ON heartline.challenge (wallet);
CREATE INDEX challenge_expiry ON heartline.challenge (expires_at);

-- What a user's clients keep for the next time: an object as JSON, and names of rooms, a line each.
CREATE TABLE heartline.checkpoint (
    person bigint PRIMARY KEY,
    metadata text NOT NULL,
    rooms text NOT NULL,
    version bigint NOT NULL,
    last_seen_at bigint NOT NULL
);
