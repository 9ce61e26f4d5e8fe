-- All messages of a batch in one statement. $1–$3: the conversations, each once and in the order
-- in which all nodes lock them. $4–$9: the messages, each once: the place of its conversation
-- among these, from 1 on; sender, key, attempt, time, content.
WITH place AS MATERIALIZED (
    SELECT p.ord, p.tenant, p.kind, p.name, c.id
    FROM unnest($1::text[], $2::text[], $3::text[])
        WITH ORDINALITY AS p (tenant, kind, name, ord)
    LEFT JOIN LATERAL (
        SELECT id FROM heartline.conversation c
        WHERE c.name = p.name AND c.kind = p.kind AND ARRAY[c.tenant] = ARRAY[p.tenant]
        LIMIT 1
    ) c ON true
), input AS MATERIALIZED (
    SELECT * FROM unnest($4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[],
        $9::text[]) WITH ORDINALITY AS i (place, sender, key, attempt, created_at, content, ord)
), old AS MATERIALIZED (
    -- What has been stored before. LIMIT keeps the plan on the index, whatever is in the table.
    SELECT i.ord, p.id AS conversation, m."offset", m.attempt
    FROM input i JOIN place p ON p.ord = i.place
    CROSS JOIN LATERAL (
        SELECT "offset", attempt FROM heartline.message m
        WHERE m.sender = i.sender AND m.conversation = p.id AND m.key = i.key
        LIMIT 1
    ) m
), fresh AS MATERIALIZED (
    SELECT i.*, row_number() OVER (PARTITION BY place ORDER BY ord) AS nth,
        count(*) OVER (PARTITION BY place) AS n
    FROM input i WHERE NOT EXISTS (SELECT FROM old WHERE old.ord = i.ord)
), bump AS (
    -- The row is locked until the commit: offsets are in the order of commits, on all nodes.
    INSERT INTO heartline.conversation AS c (tenant, kind, name, head, floor, created_at)
    SELECT p.tenant, p.kind, p.name, f.n, 0, f.created_at
    FROM place p JOIN (
        SELECT place, max(n) AS n, min(created_at) AS created_at FROM fresh GROUP BY place
    ) f ON f.place = p.ord
    ORDER BY p.ord
    ON CONFLICT (name, kind, (ARRAY[tenant])) DO UPDATE SET head = c.head + EXCLUDED.head
    RETURNING c.id, c.tenant, c.kind, c.name, c.head
), placed AS MATERIALIZED (
    SELECT f.*, b.id AS conversation, b.head - f.n + f.nth AS "offset"
    FROM fresh f JOIN place p ON p.ord = f.place
    JOIN bump b ON b.name = p.name AND b.kind = p.kind AND ARRAY[b.tenant] = ARRAY[p.tenant]
), ins AS (
    INSERT INTO heartline.message
        (conversation, "offset", sender, attempt, created_at, key, content)
    SELECT conversation, "offset", sender, attempt, created_at, key, content
    FROM placed ORDER BY ord
), mark AS (
    -- Who writes has read what is before.
    UPDATE heartline.member m SET read_offset = w."offset"
    FROM (
        SELECT conversation, sender, max("offset") AS "offset" FROM placed
        GROUP BY conversation, sender
    ) w
    WHERE m.conversation = w.conversation AND m.person = w.sender
        AND m.read_offset < w."offset"
)
SELECT ord, conversation, "offset", attempt FROM placed
UNION ALL SELECT ord, conversation, "offset", attempt FROM old
