// Invites, read markers, checkpoints and wallets: small functions beside the client.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { once } from "node:events";
import { describe, it } from "node:test";
import { checkpoint, inbox, joinByInvite, parseInvite, read, signIn } from "../dist/people.js";
import { connected, outcome, settled } from "./fake.js";

describe("an invite", () => {
  const file = new URL("../../../tests/lib/invites.json", import.meta.url);
  const table = JSON.parse(readFileSync(file, "utf8"));

  it("is found in what was pasted as the gateway finds it, or there is none", () => {
    assert.ok(table.length >= 60);
    for (const [pasted, code] of table)
      assert.equal(parseInvite(pasted) ?? null, code, JSON.stringify(pasted));
  });

  it("is not looked for in a whole book", () => {
    const address = "https://app.example/invite/k3Jd81LmQz?";
    assert.equal(parseInvite(address + "a".repeat(2_000)), "k3Jd81LmQz");
    assert.equal(parseInvite(address + "a".repeat(2_048)), undefined);
    assert.equal(parseInvite(address + "é".repeat(1_020)), undefined);
  });

  it("leads into its conversation", async () => {
    const all = connected();
    const joined = joinByInvite(all.client, "https://app.example/i/k3Jd81LmQz?from=mail");
    const [{ data, reply }] = all.link.find("invite:join");
    assert.deepEqual(data, { code: "k3Jd81LmQz" });
    reply({ ok: true, conversationId: "7", room: "conversation:7" });
    await settled();
    all.link.find("join")[0].reply({ ok: true });
    assert.deepEqual(await joined, { conversationId: "7", room: "conversation:7" });
    assert.ok(all.client.isIn("conversation:7"));
  });

  it("that is none, or no good any more, says so", async () => {
    const all = connected();
    assert.equal(await outcome(joinByInvite(all.client, "https://app.example/")), "INVALID_INVITE");
    const expired = joinByInvite(all.client, "k3Jd81LmQz");
    all.link.find("invite:join")[0].reply({ ok: false, code: "INVITE_EXPIRED", error: "…" });
    assert.equal(await outcome(expired), "INVITE_EXPIRED");
    assert.deepEqual(all.link.find("join"), []);
  });
});

it("what was read, what is unread and what is kept are asked for by name", async () => {
  const all = connected();
  const answered = async (promise, event, reply) => {
    const { data, reply: answer } = all.link.find(event).at(-1);
    answer(reply);
    return [data, await promise];
  };
  assert.deepEqual(await answered(read(all.client, "7", 5), "read", { ok: true, offset: 6 }), [
    { conversationId: "7", offset: 5 },
    6,
  ]);
  const list = { ok: true, conversations: [{ conversationId: "7", unread: 2 }], next: "c" };
  const [asked, told] = await answered(inbox(all.client, { limit: 1 }), "inbox:get", list);
  assert.deepEqual([asked, told.next], [{ limit: 1 }, "c"]);
  const kept = { ok: true, version: 4 };
  const first = answered(checkpoint(all.client, { bet: 7 }), "session:checkpoint", kept);
  assert.deepEqual(await first, [{ bet: 7 }, 4]);
  const second = checkpoint(all.client, { bet: 8 }, { ifVersion: 3 });
  const { data, reply } = all.link.find("session:checkpoint")[1];
  assert.deepEqual(data, [{ bet: 8 }, { ifVersion: 3 }]);
  reply({ ok: false, code: "CONFLICT", error: "…", version: 9, metadata: { bet: 1 } });
  await assert.rejects(second, ({ code, data }) => code === "CONFLICT" && data.version === 9);
});

describe("a wallet", () => {
  /** A gateway that answers this. */
  async function gateway(answers) {
    const asked = [];
    const server = createServer(async (request, response) => {
      let text = "";
      for await (const part of request) text += part;
      asked.push([request.url, JSON.parse(text)]);
      const [status, body, headers = {}] = answers[request.url];
      response
        .writeHead(status, headers)
        .end(typeof body === "string" ? body : JSON.stringify(body));
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const url = `http://127.0.0.1:${server.address().port}`;
    return { url, asked, close: () => server.close() };
  }
  const CHALLENGE = [200, { challenge: "sign me\n", expiresAt: 1 }];

  it("signs a text, and gets a token", async () => {
    const signedIn = { token: "t", expiresAt: 2, user: { userId: "G", walletAddress: "G" } };
    const one = await gateway({ "/auth/challenge": CHALLENGE, "/auth/connect": [200, signedIn] });
    assert.deepEqual(await signIn(one.url, "G", async (text) => `signed ${text}`), signedIn);
    assert.deepEqual(one.asked, [
      ["/auth/challenge", { walletAddress: "G" }],
      [
        "/auth/connect",
        { walletAddress: "G", challenge: "sign me\n", signature: "signed sign me\n" },
      ],
    ]);
    one.close();
  });

  const REFUSALS = [
    [[400, { error: "Validation Error", message: "no address" }], "INVALID_DATA"],
    [[401, { error: "Invalid or expired challenge" }], "CHALLENGE_EXPIRED"],
    [[401, { error: "Challenge does not match wallet address" }], "CHALLENGE_MISMATCH"],
    [[401, { error: "Invalid signature" }], "INVALID_SIGNATURE"],
    [[403, { error: "Forbidden" }], "FORBIDDEN"],
    [[429, { error: "Too Many Requests" }, { "retry-after": "7" }], "RATE_LIMITED"],
    [[503, { error: "Service Unavailable" }], "UNAVAILABLE"],
    [[502, "<html>Bad Gateway</html>"], "UNAVAILABLE"],
  ];
  for (const [answer, code] of REFUSALS)
    it(`hears ${code} of ${answer[0]} ${answer[1].error ?? "something else"}`, async () => {
      const one = await gateway({ "/auth/challenge": CHALLENGE, "/auth/connect": answer });
      const error = await signIn(one.url, "G", () => "…").catch((error) => error);
      assert.deepEqual([error.name, error.code], ["HeartlineError", code]);
      assert.equal(error.retryAfterMs, code === "RATE_LIMITED" ? 7_000 : undefined);
      one.close();
    });

  it("hears that nobody is there", async () => {
    const one = await gateway({});
    one.close();
    assert.equal(await signIn(one.url, "G", () => "…").catch(({ code }) => code), "UNAVAILABLE");
  });
});
