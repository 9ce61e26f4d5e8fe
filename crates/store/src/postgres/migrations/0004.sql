-- When an invite expires or was taken back, whichever is first: they are removed in that order.
ALTER TABLE heartline.invite ADD COLUMN ends_at bigint
    GENERATED ALWAYS AS (least(expires_at, revoked_at)) STORED;
CREATE INDEX invite_end ON heartline.invite (ends_at, code);
