-- Who belongs to which conversation, and how far each has read. `invited`: a member who may join
-- whatever rooms a token names. A page keeps room for the markers that move in it.
CREATE TABLE heartline.member (
    conversation bigint NOT NULL,
    person bigint NOT NULL,
    invited boolean NOT NULL,
    joined_at bigint NOT NULL,
    read_offset bigint NOT NULL DEFAULT 0,
    read_at bigint,
    PRIMARY KEY (conversation, person)
) WITH (fillfactor = 70);
CREATE INDEX member_person ON heartline.member (person);

-- Invites to conversations, and who has come by which. The times are Unix milliseconds.
CREATE TABLE heartline.invite (
    code text COLLATE "C" PRIMARY KEY,
    conversation bigint NOT NULL,
    created_by text COLLATE "C",
    created_at bigint NOT NULL,
    expires_at bigint,
    max_uses bigint,
    uses bigint NOT NULL DEFAULT 0,
    revoked_at bigint,
    label text COLLATE "C"
);
CREATE INDEX invite_conversation ON heartline.invite (conversation);

CREATE TABLE heartline.invite_use (
    code text COLLATE "C" NOT NULL,
    person bigint NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (code, person)
);
