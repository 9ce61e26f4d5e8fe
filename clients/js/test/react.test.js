// React's binding: on a server, and in a document.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, describe, it } from "node:test";
import { light, place } from "./dom.js";
import { act, createElement as h, StrictMode, useEffect } from "react";
import { createRoot } from "react-dom/client";
import { renderToString } from "react-dom/server";
import {
  ConnectionStatus,
  HeartlineProvider,
  describe as words,
  useConnectionStatus,
  useEvent,
  useHeartline,
  useMissed,
  usePresence,
  useRoom,
} from "../dist/react.js";
import { HELLO, outcome, settled, start } from "./fake.js";

globalThis.IS_REACT_ACT_ENVIRONMENT = true;

const roots = [];
afterEach(() => act(() => roots.splice(0).forEach((root) => root.unmount())));

/** Shows something; `show` shows something else in its place. */
async function render(element) {
  const at = place();
  const root = createRoot(at);
  roots.push(root);
  const show = (element) => act(async () => root.render(element));
  await show(element);
  return { at, show };
}
const started = () => start({ autoConnect: false });
const provided = ({ client }, ...children) => h(HeartlineProvider, { client }, ...children);
const hello = (all) => act(async () => all.link.events.hello(HELLO));
const pass = (all, ms) => act(() => all.clock.pass(ms));

describe("on a server", () => {
  function Page() {
    const { joined } = useRoom("lobby");
    return h("p", null, String(joined), String(usePresence(["ann"]).size), h(ConnectionStatus));
  }
  it("renders, connects nothing there, and leaves nothing behind", () => {
    const all = started();
    const html = renderToString(h(StrictMode, null, provided(all, h(Page))));
    assert.match(html, /false/);
    assert.match(html, /role="status" aria-live="polite" tabindex="-1">Connecting…</);
    assert.equal(all.links.length, 0);
    assert.ok(all.isClean());
  });

  it("renders no style attribute, which a page's policy may forbid", () => {
    assert.doesNotMatch(renderToString(provided(started(), h(Page))), /style=/);
  });

  it("is loaded by a server component as what runs in the browser", () => {
    for (const file of ["react.js", "cjs/react.js"]) {
      const text = readFileSync(new URL(`../dist/${file}`, import.meta.url), "utf8");
      assert.match(text, /^("use strict";\n)?"use client";/, file);
    }
  });
});

it("says which provider is missing", () => {
  const Lost = () => h("p", null, useHeartline().state.status);
  assert.throws(() => renderToString(h(Lost)), /<HeartlineProvider>/);
});

describe("a provider", () => {
  it("connects while it is shown, and leaves nothing behind", async () => {
    const all = started();
    const { show } = await render(provided(all));
    await hello(all);
    assert.equal(all.status, "connected");
    await show(null);
    await pass(all, 0);
    assert.equal(all.status, "disconnected");
    assert.ok(all.isClean());
  });

  it("that is shown anew loses nothing that waits to be sent, and keeps the connection", async () => {
    const all = started();
    const at = (key) => h(HeartlineProvider, { client: all.client, key });
    const { show } = await render(at("a"));
    const sent = all.client.send("message:send", { content: "hi" });
    await show(at("b"));
    await show(h("main", null, at("b")));
    await pass(all, 0);
    assert.equal(await outcome(sent), "pending");
    await hello(all);
    assert.equal(all.links.length, 1);
    all.link.find("message:send")[0].reply({ ok: true });
    assert.equal(await outcome(sent), "done");
  });

  it("is one of several: the last to go disconnects", async () => {
    const all = started();
    const { show } = await render(
      [provided(all), provided(all)].map((one, key) => ({ ...one, key })),
    );
    await hello(all);
    await show([{ ...provided(all), key: 0 }]);
    await pass(all, 0);
    assert.equal(all.status, "connected");
    await show([]);
    await pass(all, 0);
    assert.equal(all.status, "disconnected");
  });

  it("has connected before the effects of its children, which may send", async () => {
    const all = started();
    let sent, found;
    const Child = () => {
      useEffect(() => {
        found = all.status;
        sent ??= all.client.send("message:send", { content: "hi" });
      }, []);
    };
    await render(provided(all, h(Child)));
    assert.equal(found, "connecting");
    await hello(all);
    assert.equal(all.link.find("message:send").length, 1);
    assert.equal(await outcome(sent), "pending");
  });

  it("dials once in strict mode, and joins a room once", async () => {
    const all = started();
    const Room = () => void useRoom("lobby");
    const { show } = await render(h(StrictMode, null, provided(all, h(Room))));
    await hello(all);
    await pass(all, 0);
    assert.equal(all.links.length, 1);
    assert.deepEqual(all.link.names(), ["join"]);
    await show(null);
    await pass(all, 0);
    assert.ok(all.isClean());
  });

  it("does not take back what the app has disconnected", async () => {
    const all = started();
    const at = (key) => h(HeartlineProvider, { client: all.client, key });
    const { show } = await render(at("a"));
    await hello(all);
    await act(async () => all.client.disconnect());
    await show(at("b"));
    assert.equal(all.status, "disconnected");
  });
});

describe("a room", () => {
  function Room({ name = "lobby", seen }) {
    seen.push(useRoom(name));
  }
  it("is left when the last component that wants it has gone", async () => {
    const all = started();
    const seen = [];
    const at = (...keys) =>
      provided(
        all,
        keys.map((key) => h(Room, { key, seen })),
      );
    const { show } = await render(at(1, 2));
    await hello(all);
    await act(async () => all.link.find("join")[0].reply({ ok: true }));
    assert.deepEqual(seen.at(-1), { joined: true });
    await show(at(2));
    await pass(all, 0);
    assert.equal(all.link.find("leave").length, 0);
    await show(at());
    await pass(all, 0);
    assert.equal(all.link.find("leave").length, 1);
  });

  it("that the app has joined by itself stays, whatever components come and go", async () => {
    const all = started();
    const { show } = await render(provided(all, h(Room, { seen: [], key: 1 })));
    await hello(all);
    void all.client.join("lobby");
    await act(async () => all.link.find("join")[0].reply({ ok: true }));
    await show(provided(all));
    await pass(all, 0);
    assert.ok(all.client.isIn("lobby"));
    await act(async () => all.client.leave("lobby"));
    assert.equal(all.link.find("leave").length, 1);
  });

  it("says why it is closed, and forgets that when it is open", async () => {
    const all = started();
    const seen = [];
    const { show } = await render(provided(all, h(Room, { seen, key: 1 })));
    await hello(all);
    await act(async () => all.link.find("join")[0].reply({ ok: false, code: "FORBIDDEN" }));
    assert.deepEqual([seen.at(-1).joined, seen.at(-1).error.code], [false, "FORBIDDEN"]);
    await act(async () => {
      void all.client.join("lobby");
      all.link.find("join").at(-1).reply({ ok: true });
    });
    assert.deepEqual(seen.at(-1), { joined: true });
    await show(null);
  });

  it("is another one when its name is", async () => {
    const all = started();
    const seen = [];
    const { show } = await render(provided(all, h(Room, { seen })));
    await hello(all);
    await show(provided(all, h(Room, { seen, name: "kitchen" })));
    await pass(all, 0);
    assert.deepEqual(
      all.link.said.map(({ event, data }) => `${event} ${data}`),
      ["join lobby", "join kitchen", "leave lobby"],
    );
  });
});

describe("events", () => {
  it("reach the handler of the last render, and `useMissed` what cannot be filled", async () => {
    const all = started();
    const heard = [];
    function Page({ name }) {
      useEvent("note", (data) => heard.push([name, data]));
      useMissed("lobby", () => heard.push("missed"));
    }
    const { show } = await render(provided(all, h(Page, { name: "a" })));
    await hello(all);
    await show(provided(all, h(Page, { name: "b" })));
    all.link.events.event("note", 1);
    assert.deepEqual(heard, [["b", 1]]);
    for (const room of ["lobby", "kitchen"]) {
      void all.client.join(room);
      all.link.find("join").at(-1).reply({ ok: true });
      await settled();
      all.link.events.event("room:gap", { room });
    }
    assert.deepEqual(heard.slice(1), ["missed"]);
  });
});

describe("presence", () => {
  const answer = (link, users) =>
    link.find("presence:watch").at(-1).reply({ ok: true, epoch: "e", rev: 1, head: 1, users });
  const user = (userId, online = true, rev = 1) => ({ userId, online, rev });

  it("of a hundred rows is one question, and a change renders the rows that it is about", async () => {
    const all = started();
    const renders = {};
    const Row = ({ id }) => {
      renders[id] = (renders[id] ?? 0) + 1;
      return h("li", null, `${id} ${usePresence([id]).get(id)?.online}`);
    };
    const ids = Array.from({ length: 100 }, (_, index) => `u${index}`);
    const { at, show } = await render(
      h(
        StrictMode,
        null,
        provided(
          all,
          ids.map((id) => h(Row, { id, key: id })),
        ),
      ),
    );
    await pass(all, 0);
    await hello(all);
    await settled();
    assert.deepEqual(
      all.link.find("presence:watch").map(({ data }) => data.users.length),
      [100],
    );
    await act(async () =>
      answer(
        all.link,
        ids.map((id) => user(id)),
      ),
    );
    assert.match(at.textContent, /u7 true/);
    const before = { ...renders };
    await act(async () =>
      all.link.events.event("presence:change", {
        epoch: "e",
        rev: 2,
        users: [user("u7", false, 2)],
      }),
    );
    assert.match(at.textContent, /u7 false/);
    assert.deepEqual(
      ids.filter((id) => renders[id] !== before[id]),
      ["u7"],
    );
    await show(null);
    await pass(all, 0);
    assert.ok(all.isClean());
  });

  it("asks for the devices of all in one question", async () => {
    const all = started();
    const Row = ({ id }) =>
      h("li", null, `${id} ${usePresence([id], { refresh: 5000 }).get(id)?.devices}`);
    const { at } = await render(
      provided(
        all,
        ["a", "b", "c"].map((id) => h(Row, { id, key: id })),
      ),
    );
    await pass(all, 0);
    await hello(all);
    await act(async () =>
      answer(
        all.link,
        ["a", "b", "c"].map((id) => user(id)),
      ),
    );
    await pass(all, 0);
    const asked = () => all.link.find("presence:get").map(({ data }) => data.users.join());
    assert.deepEqual(asked(), ["a,b,c"]);
    const users = ["a", "b", "c"].map((id) => ({ ...user(id), devices: 2 }));
    await act(async () => all.link.find("presence:get")[0].reply({ users }));
    assert.match(at.textContent, /a 2b 2c 2/);
    await pass(all, 5000);
    assert.deepEqual(asked(), ["a,b,c", "a,b,c"]);
  });

  it("goes on asking where it was asked for anew, whoever has gone meanwhile", async () => {
    const all = started();
    const Row = ({ id }) => void usePresence([id]);
    const rows = (...ids) =>
      provided(
        all,
        ids.map((id) => h(Row, { id, key: id })),
      );
    const { show } = await render(rows("a", "b"));
    await pass(all, 0);
    await hello(all);
    await show(rows("b", "c"));
    await pass(all, 0);
    const users = (event) => all.link.find(event).map(({ data }) => data.users.join());
    assert.deepEqual(users("presence:watch"), ["a,b", "c"]);
    await show(rows("c"));
    await pass(all, 0);
    assert.deepEqual(users("presence:unwatch"), ["a,b"]);
    // Many that came one by one become one, before the server has too many of them.
    const ids = ["c"];
    for (let one = 0; one < 16; one++) {
      ids.push(`d${one}`);
      await show(rows(...ids));
      await pass(all, 0);
    }
    assert.equal(users("presence:watch").at(-1).split(",").length, 17);
  });
});

describe("the status light", () => {
  it("is never shown as disconnected before it connects", async () => {
    const all = started();
    const seen = [];
    const labels = ({ status }) => (seen.push(status), status);
    await render(provided(all, h(ConnectionStatus, { labels })));
    assert.deepEqual([...new Set(seen)], ["connecting"]);
    await act(async () => all.client.disconnect());
    assert.equal(seen.at(-1), "disconnected");
  });

  it("says nothing new from one attempt to the next, and lets people try at once", async () => {
    const all = started();
    const { at } = await render(provided(all, h(ConnectionStatus)));
    await hello(all);
    await act(async () => all.link.events.end({ kind: "retry", reason: "transport" }));
    const said = light(at).words;
    assert.equal(said, "Reconnecting…");
    await pass(all, 1000);
    await act(async () => all.link.events.end({ kind: "retry", reason: "transport" }));
    assert.equal(all.client.state.attempt, 2);
    assert.equal(light(at).words, said);
    const dialled = all.links.length;
    await act(async () => light(at).button.click());
    assert.equal(all.links.length, dialled + 1);
  });

  it("keeps the focus of whoever has pressed its button", async () => {
    const all = started();
    const { at } = await render(provided(all, h(ConnectionStatus)));
    await act(async () => all.link.events.end({ kind: "final", reason: "replaced" }));
    assert.equal(light(at).words, "Connection failed: opened in another place");
    await act(async () => {
      light(at).button.focus();
      light(at).button.click();
    });
    assert.equal(light(at).button, undefined);
    assert.equal(document.activeElement, at.querySelector("[role=status]"));
  });

  it("speaks another language, on the button too", async () => {
    const all = started();
    const labels = () => "Verbindung verloren";
    const buttonLabels = ({ status }) => (status === "failed" ? "Noch einmal" : undefined);
    const { at } = await render(provided(all, h(ConnectionStatus, { labels, buttonLabels })));
    assert.equal(light(at).button, undefined);
    await act(async () => all.link.events.end({ kind: "final", reason: "kicked" }));
    assert.equal(at.textContent, "Verbindung verlorenNoch einmal");
  });

  it("has a shape for each state that it is to be told apart from", async () => {
    const all = started();
    const { at } = await render(provided(all, h(ConnectionStatus)));
    const shapes = [light(at).shape];
    await hello(all);
    shapes.push(light(at).shape);
    await act(async () => all.link.events.end({ kind: "final", reason: "kicked" }));
    shapes.push(light(at).shape);
    await act(async () => all.client.disconnect());
    shapes.push(light(at).shape);
    assert.equal(new Set(shapes).size, 4);
  });

  it("has words for all states", () => {
    const lost = { status: "reconnecting", attempt: 3, nextRetryAt: 0 };
    const states = [
      [{ status: "connecting" }, "Connecting…"],
      [{ status: "connected", socketId: "s", recovered: false }, "Connected"],
      [{ ...lost, reason: "transport" }, "Reconnecting…"],
      [{ ...lost, reason: "offline" }, "Offline"],
      [{ status: "failed", reason: "replaced" }, "Connection failed: opened in another place"],
      [{ status: "failed", reason: "invalid_namespace" }, "Connection failed: invalid namespace"],
      [{ status: "disconnected", reason: "client" }, "Disconnected"],
    ];
    for (const [state, said] of states) assert.equal(words(state), said);
  });
});
