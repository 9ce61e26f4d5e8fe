// The checker of what is torn: that it sees what is wrong, and nothing else.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Book, Witness } from "./lib/witness.js";

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

  it("forgives what is missing for as long as it takes to say so, and says how much it was", async () => {
    for (const [after, gaps, late] of [
      [5000, 0, 2],
      [5001, 2, 0],
    ]) {
      const book = new Book(["a"]);
      for (let count = 0; count < 7; count++) await book.say("a", yes);
      let time = 0;
      const witness = new Witness(book, ["a"], { now: () => time });
      witness.begins("a");
      for (const number of [1, 2, 5]) witness.hears({ room: "a", number, all: number });
      time = after;
      witness.hears({ room: "a", number: 6, all: 6 });
      witness.misses("a");
      witness.hears({ room: "a", number: 7, all: 7 });
      const verdict = witness.verdict();
      assert.deepEqual([verdict.gaps.length, verdict.late], [gaps, late]);
    }
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
