-- When an invite expires or was taken back, whichever is first: they are removed in that order.
ALTER TABLE invite ADD COLUMN ends_at INTEGER
    GENERATED ALWAYS AS (min(ifnull(expires_at, revoked_at), ifnull(revoked_at, expires_at))) VIRTUAL;
CREATE INDEX invite_end ON invite (ends_at, code);
