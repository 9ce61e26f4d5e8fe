// What the client makes of an end, and which names it takes for the server's own, are what
// docs/clients.md says; the gateway's tables are held against the same page.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { PERSONAL } from "../dist/names.js";
import { CODES, REFUSALS } from "../dist/refusals.js";

const page = (name) => readFileSync(new URL(`../../../docs/${name}`, import.meta.url), "utf8");

/** The rows of a table in docs/clients.md, each a record by the words of its head. */
function table(name) {
  const found = page("clients.md").split(`<!-- ${name} -->\n`)[1]?.split("<!-- end -->")[0];
  const [head, , ...rows] = (found ?? "")
    .trim()
    .split("\n")
    .map((line) => line.slice(1, -1).split("|"))
    .map((cells) => cells.map((cell) => cell.trim().replace(/^`([^`]*)`$/, "$1")));
  assert.ok(rows.length > 0, `docs/clients.md has no table of ${name}`);
  return rows.map((cells) => Object.fromEntries(head.map((word, index) => [word, cells[index]])));
}

/** What a client does that comes back in these words. */
const KINDS = {
  yes: "retry",
  "after a pause": "retry",
  "as the app likes": "retry",
  "with a new token": "token",
  "not unchanged": "final",
  no: "final",
};
const kind = (words) => KINDS[words] ?? assert.fail(`what is "${words}"?`);
const closeCodes = table("close codes");
const refusals = table("error codes").filter(({ answers }) => answers.includes("connecting"));

describe("the client comes back, or stays away, as the documentation says", () => {
  for (const row of closeCodes)
    it(`after a close with ${row.code}`, () => {
      // Whatever is not in the table is a lost connection.
      assert.equal(CODES[row.code]?.kind ?? "retry", kind(row["come back?"]));
    });

  for (const row of refusals)
    it(`after the refusal ${row.code}`, () => {
      // Socket.IO's own refusal has a message and no code; the transport knows it.
      if (row.code === "Invalid namespace") return assert.equal(kind(row["try again?"]), "final");
      assert.equal(REFUSALS[row.code]?.kind, kind(row["try again?"]));
    });

  it("and knows no codes besides", () => {
    const closes = closeCodes.map(({ code }) => code);
    const refused = refusals.map(({ code }) => code);
    assert.deepEqual(
      Object.keys(CODES).filter((code) => !closes.includes(code)),
      [],
    );
    assert.deepEqual(
      Object.keys(REFUSALS).filter((code) => !refused.includes(code)),
      [],
    );
  });

  it("without a package too", () => {
    const [, list] = /const FINAL = \[([\d, ]+)\]/.exec(page("javascript.md"));
    const final = closeCodes.filter((row) => kind(row["come back?"]) === "final");
    assert.deepEqual(
      list.split(", "),
      final.map(({ code }) => code),
    );
  });
});

it("what the server says to one connection alone is not believed of a room", () => {
  for (const row of table("reserved names"))
    assert.equal(PERSONAL.test(row.event), row["who hears it"] === "one connection", row.event);
  for (const event of ["server:other", "room:in", "my heartbeat", "pings"])
    assert.ok(!PERSONAL.test(event), event);
});

const types = readFileSync(new URL("../dist/types.d.ts", import.meta.url), "utf8");

it("the types know the events that the server sends, but those that each app types for itself", () => {
  const [, text] = /interface ServerEvents \{([^]*?)\n\}/.exec(types);
  const known = [...text.matchAll(/^ {4}"?([\w:]+)"?:/gm)].map(([, name]) => name);
  const sent = table("reserved names").filter((row) => row["who hears it"]);
  const own = ["ping", "message:new"];
  assert.deepEqual(
    sent.map(({ event }) => event).filter((name) => ![...known, ...own].includes(name)),
    [],
  );
});

describe("the types of errors", () => {
  const union = (name) => {
    const [, text] = new RegExp(`type ${name} = ([^;]*);`).exec(types);
    return [...text.matchAll(/"([^"]+)"/g)].map(([, code]) => code);
  };
  const codes = table("error codes").filter(({ answers }) => !/^the app's own/.test(answers));

  it("know every code that a client may hear", () => {
    const unknown = codes
      .map(({ code }) => code)
      .filter((code) => !union("ServerCode").includes(code));
    assert.deepEqual(unknown, []);
  });

  it("know those that this client itself gives", () => {
    const modules = ["core", "encode", "queue", "refusals", "small", "types"];
    const source = modules.map((name) =>
      readFileSync(new URL(`../src/${name}.ts`, import.meta.url), "utf8"),
    );
    const made = source.join("").matchAll(/(?:HeartlineError\(\s*|super\(|code \?\? )"([A-Z_]+)"/g);
    assert.deepEqual(
      union("ClientCode").sort(),
      [...new Set([...made].map(([, code]) => code))].sort(),
    );
  });
});
