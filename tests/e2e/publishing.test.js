// What a client says takes effect in the order in which it was said, on polling too.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { serve } from "./lib/server.js";

describe("events of one polling client", () => {
  let node;
  before(async () => (node = await serve({ "auth.mode": "optional" })));
  after(() => node.stop());

  it("find the join before them done, though one request brought both", async () => {
    const url = `${node.http}/socket.io/?EIO=4&transport=polling`;
    const get = async (sid) => (await fetch(`${url}&sid=${sid}`)).text();
    const post = async (sid, body) => {
      const answer = await fetch(`${url}&sid=${sid}`, { method: "POST", body });
      assert.equal(await answer.text(), "ok");
    };
    for (let round = 0; round < 20; round++) {
      const { sid } = JSON.parse((await (await fetch(url)).text()).slice(1));
      await post(sid, "40");
      await post(
        sid,
        '420["join",{"room":"x"}]\x1e421["publish",{"room":"x","event":"e","data":1}]',
      );
      let heard = [];
      while (!heard.some((packet) => packet.startsWith("431"))) {
        heard = heard.concat((await get(sid)).split("\x1e"));
      }
      const told = heard.filter((packet) => /^4(30|31)|"e"/.test(packet));
      assert.deepEqual(
        told.map((packet) => packet.slice(0, 6)),
        ['430[{"', '42["e"', '431[{"'],
        `round ${round}: ${heard}`,
      );
    }
  });
});
