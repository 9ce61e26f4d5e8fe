// Vue's binding, in a document and on a server, with the real Vue.
import assert from "node:assert/strict";
import { afterEach, it } from "node:test";
import { light, place } from "./dom.js";
import { createApp, createSSRApp, defineComponent, h, nextTick, onMounted, ref } from "vue";
import { renderToString } from "vue/server-renderer";
import {
  ConnectionStatus,
  HeartlineProvider,
  useConnectionStatus,
  useEvent,
  useHeartline,
  useMissed,
  usePresence,
  useRoom,
} from "../dist/vue.js";
import { HELLO, outcome, settled, start } from "./fake.js";

const apps = [];
afterEach(() => apps.splice(0).forEach((app) => app.unmount()));

/** Shows what `render` returns, within a provider or several. */
function show(render) {
  const at = place();
  const app = createApp({ render });
  apps.push(app);
  app.mount(at);
  return at;
}
const started = () => start({ autoConnect: false });
const provided = ({ client }, render, key) =>
  h(HeartlineProvider, { client, key }, { default: render });
const shown = async () => {
  await settled();
  await nextTick();
};

it("connects while it is shown, joins, hears, and leaves nothing behind", async () => {
  const all = started();
  const isShown = ref(true);
  const name = ref("lobby");
  const heard = [];
  const Room = defineComponent(() => {
    const { joined, error } = useRoom(name);
    const status = useConnectionStatus();
    useEvent("note", (data) => heard.push(data));
    useMissed(name, () => heard.push("missed"));
    return () => h("p", `${status.value.status} ${joined.value} ${error.value?.code}`);
  });
  const at = show(() => isShown.value && provided(all, () => h(Room)));
  assert.equal(at.textContent, "connecting false undefined");
  all.link.events.hello(HELLO);
  all.link.find("join")[0].reply({ ok: true });
  await shown();
  assert.equal(at.textContent, "connected true undefined");
  all.link.events.event("note", 1);
  all.link.events.event("room:gap", { room: "lobby" });
  assert.deepEqual(heard, [1, "missed"]);
  name.value = "kitchen";
  await shown();
  await all.clock.pass(0);
  all.link.find("join")[1].reply({ ok: false, code: "FORBIDDEN" });
  await shown();
  assert.equal(at.textContent, "connected false FORBIDDEN");
  assert.deepEqual(
    all.link.find("leave").map(({ data }) => data),
    ["lobby"],
  );
  isShown.value = false;
  await shown();
  await all.clock.pass(0);
  assert.equal(all.status, "disconnected");
  assert.ok(all.isClean());
});

it("loses nothing when it is shown anew, nor what children send as they are mounted", async () => {
  const all = started();
  const key = ref(1);
  const sent = [];
  const Child = defineComponent(() => {
    const client = useHeartline();
    onMounted(() => {
      assert.equal(all.status, "connecting");
      sent.push(client.send("message:send", { content: "hi" }));
    });
    return () => h("p");
  });
  show(() => provided(all, () => h(Child), key.value));
  key.value = 2;
  await shown();
  await all.clock.pass(0);
  assert.equal(all.links.length, 1);
  all.link.events.hello(HELLO);
  assert.deepEqual(await Promise.all(sent.map(outcome)), ["pending", "pending"]);
});

it("asks for the presence of all rows in one question", async () => {
  const all = started();
  const Row = defineComponent(
    ({ id }) => {
      const people = usePresence(() => [id]);
      return () => h("li", `${id} ${people.value.get(id)?.online}`);
    },
    { props: ["id"] },
  );
  const at = show(() => provided(all, () => ["a", "b", "c"].map((id) => h(Row, { id, key: id }))));
  await all.clock.pass(0);
  all.link.events.hello(HELLO);
  const asked = all.link.find("presence:watch");
  assert.deepEqual(
    asked.map(({ data }) => data.users.join()),
    ["a,b,c"],
  );
  const users = ["a", "b"].map((userId) => ({ userId, online: true, rev: 1 }));
  asked[0].reply({ ok: true, epoch: "e", rev: 1, head: 1, users });
  await shown();
  assert.equal(at.textContent, "a trueb truec undefined");
});

it("has a status light whose words and focus stay where they are", async () => {
  const all = started();
  const at = show(() => provided(all, () => h(ConnectionStatus)));
  assert.equal(light(at).words, "Connecting…");
  all.link.events.end({ kind: "final", reason: "replaced" });
  await shown();
  const { words, button, status } = light(at);
  assert.deepEqual([status, words], ["failed", "Connection failed: opened in another place"]);
  button.focus();
  button.click();
  await shown();
  assert.equal(light(at).button, undefined);
  assert.equal(document.activeElement, at.querySelector("[role=status]"));
  all.link.events.end({ kind: "retry", reason: "transport" });
  await shown();
  assert.equal(light(at).words, "Reconnecting…");
  assert.equal(light(at).button.textContent, "Try now");
});

it("renders on a server without styles, and connects nothing there", async () => {
  const all = started();
  const Page = defineComponent(() => {
    const { joined } = useRoom("lobby");
    const people = usePresence(["ann"]);
    return () => [h("p", `${joined.value} ${people.value.size}`), h(ConnectionStatus)];
  });
  const html = await renderToString(createSSRApp(() => provided(all, () => h(Page))));
  assert.match(html, /<p>false 0<\/p>.*>Connecting…</);
  assert.doesNotMatch(html, /style=/);
  assert.equal(all.links.length, 0);
  assert.ok(all.isClean());
});

it("says which provider is missing", async () => {
  const Lost = defineComponent(() => useHeartline() && (() => null));
  const app = createSSRApp(Lost);
  app.config.warnHandler = () => {};
  await assert.rejects(renderToString(app), /<HeartlineProvider>/);
});
