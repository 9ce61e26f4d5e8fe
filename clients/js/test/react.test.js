// What a server renders, where there is no browser.
import assert from "node:assert/strict";
import { it } from "node:test";
import { createElement as h, StrictMode } from "react";
import { renderToString } from "react-dom/server";
import {
  ConnectionStatus,
  HeartlineProvider,
  describe,
  useHeartline,
  usePresence,
  useRoom,
} from "../dist/react.js";
import { start } from "./fake.js";

function Page() {
  const { joined } = useRoom("lobby");
  return h("p", null, String(joined), String(usePresence(["ann"]).size), h(ConnectionStatus));
}

it("renders on a server, connects nothing there, and leaves nothing behind", () => {
  const all = start({ autoConnect: false });
  const html = renderToString(
    h(StrictMode, null, h(HeartlineProvider, { client: all.client }, h(Page))),
  );
  assert.match(html, /false/);
  assert.match(html, /role="status" aria-live="polite">Connecting…</);
  assert.equal(all.links.length, 0);
  assert.ok(all.isClean());
});

it("says which provider is missing", () => {
  const Lost = () => h("p", null, useHeartline().state.status);
  assert.throws(() => renderToString(h(Lost)), /<HeartlineProvider>/);
});

it("has words for all states", () => {
  const states = [
    [{ status: "connecting" }, "Connecting…"],
    [{ status: "connected", socketId: "s", recovered: false }, "Connected"],
    [
      { status: "reconnecting", attempt: 3, nextRetryAt: 0, reason: "transport" },
      "Reconnecting, attempt 3",
    ],
    [{ status: "failed", reason: "replaced" }, "Connection failed: opened in another place"],
    [{ status: "failed", reason: "invalid_namespace" }, "Connection failed: invalid namespace"],
    [{ status: "disconnected", reason: "client" }, "Disconnected"],
  ];
  for (const [state, words] of states) assert.equal(describe(state), words);
});
