// The checker of what is torn: that it sees what is wrong, and nothing else.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Book, EVERYBODY, Witness } from "./lib/witness.js";

const yes = () => true;

/** What a witness says who hears these numbers of the first ten of a room; `afresh` begins anew. */
async function verdict(heard, { said = 10, joined = true } = {}) {
  const book = new Book(["a"]);
  for (let count = 0; count < said; count++) await book.say("a", yes);
  const witness = new Witness(book, ["a"]);
  witness.begins("a");
  if (joined) witness.rooms.get("a")[0].from = 1;
  for (const number of heard) {
    if (number === "afresh") witness.begins("a");
    else witness.hears({ room: "a", number, all: number });
  }
  const { gaps, duplicates, inversions, told } = witness.verdict();
  return [gaps.length, duplicates.length, inversions.length, told];
}

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

describe("a witness", () => {
  for (const [what, heard, expected] of [
    ["has nothing to say where all came once and in order", numbers(1, 10), [0, 0, 0, 0]],
    ["misses what is missing in the middle", [...numbers(1, 4), ...numbers(7, 10)], [2, 0, 0, 0]],
    ["misses what is missing at the end", numbers(1, 8), [2, 0, 0, 0]],
    ["misses what was said after it was told that it is in", numbers(3, 10), [2, 0, 0, 0]],
    ["sees what comes twice", [...numbers(1, 5), 4, 5, ...numbers(6, 10)], [0, 2, 0, 0]],
    ["sees what comes late", [1, 2, 4, 3, ...numbers(5, 10)], [0, 0, 1, 0]],
    [
      "knows what it missed before a fresh start",
      [1, 2, "afresh", ...numbers(6, 10)],
      [0, 0, 0, 3],
    ],
    ["misses nothing it was never promised", [1, 2, "afresh", 9, 10], [0, 0, 0, 6]],
    ["hears nothing again after a fresh start", [1, 2, "afresh", ...numbers(2, 10)], [0, 0, 0, 0]],
  ]) {
    it(what, async () => assert.deepEqual(await verdict(heard), expected));
  }

  describe("who is told of a loss later than they hear what came behind it", () => {
    // A master of Redis acknowledged 3 in line `b`, while others were in line `c` already.
    const LINES = { 1: "c", 2: "c", 3: "b", 4: "c", 5: "d", 6: "d" };
    const how = { lines: LINES, after: 5000, told: (witness) => witness.misses("a") };

    async function late({ lines, after, told } = how) {
      const book = new Book(["a", "z"]);
      for (let count = 0; count < 6; count++) await book.say("a", yes);
      let time = 0;
      const make = () => new Witness(book, ["a", "z"], { now: () => time });
      const at = (number) => `hl.${lines[number]}.${number}`;
      const hears = (witness, ...all) => {
        for (const number of all) witness.hears({ room: "a", number, all: number }, at(number));
      };
      // Somebody else is where it was heard.
      const other = make();
      other.begins("a");
      hears(other, 1, 2, 3, 4, 5, 6);
      const witness = make();
      witness.comes(false);
      for (const room of ["a", "z"]) {
        witness.begins(room);
        witness.joined(room);
      }
      hears(witness, 1, 2, 4);
      time = after;
      told(witness, (ms) => (time += ms));
      hears(witness, 5, 6);
      const { gaps, late, told: known } = witness.verdict();
      return [gaps.length, late, known];
    }

    it("has missed nothing silently", async () => {
      assert.deepEqual(await late(), [0, 1, 0]);
      const afresh = (witness) => witness.begins("a");
      assert.deepEqual(await late({ ...how, told: afresh }), [0, 1, 0]);
    });
    for (const [what, more] of [
      ["more than five seconds later", { after: 5001 }],
      ["of another room's gap", { told: (witness) => witness.misses("z") }],
      ["not at all", { told: () => {} }],
      ["and what came behind it was in the same line", { lines: { ...LINES, 3: "c" } }],
      ["and no line began anew", { lines: { ...LINES, 5: "c", 6: "c" } }],
      ["and one gateway alone has no line but its own", { lines: "cccccccc".split("") }],
    ]) {
      it(`has, if told ${what}`, async () => {
        assert.deepEqual(await late({ ...how, ...more }), [1, 0, 0]);
      });
    }
    it("has, if the connection was lost more than five seconds later, whenever they come back", async () => {
      for (const [lostAt, expected] of [
        [5000, [0, 1, 0]],
        [5001, [1, 0, 0]],
      ]) {
        const told = (witness, pass) => {
          witness.loses("a cut");
          pass(60_000);
          witness.loses("no way in");
          witness.comes(false);
          witness.begins("a");
        };
        assert.deepEqual(await late({ ...how, told, after: lostAt }), expected);
      }
    });
  });

  it("misses what was said after it was told of a gap", async () => {
    const book = new Book(["a"]);
    const witness = new Witness(book, ["a"]);
    witness.begins("a");
    const say = async (hears) => {
      await book.say("a", yes);
      const number = book.next("a") - 1;
      if (hears) witness.hears({ room: "a", number, all: number });
    };
    for (const hears of [true, false]) await say(hears);
    witness.misses("a");
    for (const hears of [false, true]) await say(hears);
    const { gaps, told } = witness.verdict();
    assert.deepEqual([gaps.length, told], [1, 1]);
    assert.match(gaps[0], /^a, section 1: 3 is missing/);
  });

  describe("of what is said to its user, and to everybody", () => {
    const SCOPES = ["user:ann", EVERYBODY];
    /** Four things in each scope; it hears what `play` has it hear. */
    async function heard(play) {
      const book = new Book(["a", ...SCOPES]);
      const witness = new Witness(book, ["a"], { own: SCOPES });
      witness.comes(false);
      witness.begins("a");
      witness.joined("a");
      const all = new Map();
      for (const room of SCOPES)
        for (let count = 0; count < 4; count++) {
          await book.say(room, (data) => all.set(`${room} ${data.number}`, data));
        }
      const hears = (room, ...numbers) => {
        for (const number of numbers) witness.hears(all.get(`${room} ${number}`));
      };
      await play({ witness, hears, all });
      const { gaps, duplicates, inversions, told } = witness.verdict();
      return [gaps, duplicates, inversions, told].map((one) => one.length ?? one);
    }

    for (const scope of SCOPES) {
      const [other] = SCOPES.filter((one) => one !== scope);
      const rest = (hears) => hears(other, 1, 2, 3, 4);
      for (const [what, play, expected] of [
        ["hears all", ({ hears }) => hears(scope, 1, 2, 3, 4), [0, 0, 0, 0]],
        [
          "misses the first, as it is there from its beginning",
          ({ hears }) => hears(scope, 2, 3, 4),
          [1, 0, 0, 0],
        ],
        ["misses one in the middle", ({ hears }) => hears(scope, 1, 2, 4), [1, 0, 0, 0]],
        ["misses the last", ({ hears }) => hears(scope, 1, 2, 3), [1, 0, 0, 0]],
        ["misses all of them", () => {}, [4, 0, 0, 0]],
        ["hears one twice", ({ hears }) => hears(scope, 1, 2, 2, 3, 4), [0, 1, 0, 0]],
        ["hears one too late", ({ hears }) => hears(scope, 1, 3, 2, 4), [0, 0, 1, 0]],
      ]) {
        it(`${scope}: ${what}`, async () => {
          const seen = await heard(async (all) => {
            await play(all);
            rest(all.hears);
          });
          assert.deepEqual(seen, expected);
        });
      }
      it(`${scope}: is told by a gap of its user's room, and by no other`, async () => {
        for (const [room, expected] of [
          ["user:ann", [0, 0, 0, 1]],
          ["a", [1, 0, 0, 0]],
        ]) {
          const seen = await heard(({ witness, hears }) => {
            rest(hears);
            hears(scope, 1, 2);
            witness.misses(room);
            hears(scope, 4);
          });
          // What was said before it was told may be among what is missing.
          assert.deepEqual(seen, expected);
        }
      });
    }
  });

  it("sees a place that is before the last one, in whatever scopes they are", async () => {
    const book = new Book(["a", EVERYBODY]);
    for (const isLine of [true, false]) {
      const witness = new Witness(book, ["a"], { own: [EVERYBODY], isLine });
      witness.comes(false);
      witness.begins("a");
      const hears = (room, number, id) =>
        witness.hears({ room, number, all: number }, `hl.1.${id}`);
      hears("a", 1, "zz");
      hears(EVERYBODY, 1, "zy");
      hears(EVERYBODY, 2, "100");
      // The same once more is no matter of order.
      hears("a", 1, "zz");
      const { inversions, duplicates } = witness.verdict();
      assert.deepEqual([inversions.length, duplicates.length], [isLine ? 1 : 0, 1]);
    }
  });

  it("knows which scopes it has not got the last of, unless it came after that", async () => {
    const book = new Book(["a", "b"]);
    const witness = new Witness(book, ["a", "b"]);
    for (const room of ["a", "b"]) witness.begins(room);
    for (const room of ["a", "a", "b"]) await book.say(room, yes);
    witness.hears({ room: "a", number: 1, all: 1 });
    assert.deepEqual(witness.lacks(), [
      { scope: "a", has: 1, last: 2 },
      { scope: "b", has: 0, last: 1 },
    ]);
    witness.hears({ room: "a", number: 2, all: 2 });
    assert.equal(witness.isDone(), false);
    witness.begins("b");
    witness.joined("b");
    assert.equal(witness.isDone(), true);
  });

  it("says when something was said, by whom, and who has heard it", async () => {
    const book = new Book(["a"], { now: () => 1000 });
    await book.say("a", () => ({ by: "n1.2", way: "/v1/broadcast" }));
    book.heard({ room: "a", number: 1 }, { line: "x", node: "n0" });
    const expected =
      "said 00:00:01.000, acknowledged 00:00:01.000 by n1.2 to /v1/broadcast, heard by 1, " +
      "on n0, in line x";
    assert.equal(book.tell("a", 1), expected);
  });

  it("wants nothing of what was not acknowledged and heard by nobody", async () => {
    const book = new Book(["a"]);
    for (const isSaid of [true, false, true]) await book.say("a", () => isSaid);
    const hears = (...heard) => {
      const witness = new Witness(book, ["a"]);
      witness.begins("a");
      for (const number of heard) witness.hears({ room: "a", number, all: number });
      return witness;
    };
    const one = hears(1, 3);
    assert.deepEqual(one.verdict().gaps, []);
    // But if somebody heard it, all must.
    hears(1, 2, 3);
    assert.equal(one.verdict().gaps.length, 1);
  });

  it("sees rooms that come in another order than they were spoken in", async () => {
    const book = new Book(["a", "b"]);
    const witness = new Witness(book, ["a", "b"], { isLine: true });
    for (const room of ["a", "b"]) witness.begins(room);
    await book.say("a", yes);
    await book.say("b", yes);
    witness.hears({ room: "b", number: 1, all: 2 });
    witness.hears({ room: "a", number: 1, all: 1 });
    assert.equal(witness.verdict().inversions.length, 1);
  });
});
