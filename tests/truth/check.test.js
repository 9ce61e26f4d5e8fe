// The checker itself: hand-made histories that are true, and one for each way not to be.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { check } from "./check.js";
import { KINDS } from "./faults.js";
import { schedule } from "./schedule.js";
import { common, covers, outside, touches, union, without } from "./spans.js";

const SETTINGS = { lease: 4000, refresh: 800, heartbeat: 3000, slack: 1000 };
const UNIX = 1_800_000_000_000;

/** A history of one observer, `bob`, on node n1, who is told of `ann`; in the order of its times. */
function history(...events) {
  const all = [
    { t: 0, what: "begin", seed: 1, settings: SETTINGS, unix: UNIX },
    { t: 1, what: "here", observer: "bob", node: "n1" },
    ...events,
    { t: 60_000, what: "end" },
  ];
  return all.sort((a, b) => a.t - b.t);
}
const found = (...events) => check(history(...events)).violations.map(({ rule }) => rule);
const rules = (...events) => [...new Set(found(...events))];

const socket = (from, to, how = "closed", node = "n2", name = `s${from}`) => [
  { t: from, what: "dial", socket: name, user: "ann", node },
  { t: from + 10, what: "up", socket: name, node },
  ...(to === undefined ? [] : [{ t: to, what: "down", socket: name, how }]),
];
const edge = (t, online, rev) => ({ t, what: "edge", observer: "bob", user: "ann", online, rev });
const picture = (t, online, rev = online ? 1 : 2, status = "complete", of = "users") => ({
  t,
  what: "picture",
  observer: "bob",
  of,
  status,
  users: { ann: [online, rev] },
});
const fault = (kind, from, to, node) => [
  { t: from, what: "fault", id: from, kind, ...(node && { node }) },
  ...(to === undefined ? [] : [{ t: to, what: "healed", id: from }]),
];
const answer = (t, online, detail = {}) => ({
  t,
  what: "answer",
  observer: "bob",
  asked: t - 10,
  asOf: UNIX + t - 5,
  users: [{ userId: "ann", online, rev: online ? 1 : 2, ...detail }],
});
const quiet = (t) => ({ t, what: "quiet" });
const watched = (t, users = {}, detail = {}) => ({
  t,
  what: "watched",
  observer: "bob",
  of: "users",
  epoch: "e",
  rev: 0,
  head: 0,
  users,
  ...detail,
});
const change = (t, rev, users = {}, detail = {}) => ({
  t,
  what: "change",
  observer: "bob",
  of: "users",
  epoch: "e",
  rev,
  users,
  ...detail,
});

describe("the checker of presence", () => {
  it("finds nothing where everything is as promised", () => {
    const story = [
      ...socket(5000, 20_000),
      picture(1000, false, 0),
      edge(5020, true, 1),
      picture(5060, true, 1),
      answer(10_000, true),
      edge(20_100, false, 2),
      picture(20_100, false, 2),
      answer(30_000, false),
      quiet(40_000),
    ];
    const { violations, counts } = check(history(...story));
    assert.deepEqual(violations, []);
    assert.deepEqual([counts.edges, counts.answers, counts.pictures, counts.users], [2, 2, 3, 1]);
  });

  it("allows a change as long as it takes, and not longer", () => {
    const offline = (t) => [...socket(5000, 20_000), picture(5100, true), picture(t, false)];
    assert.deepEqual(rules(...offline(20_900)), []);
    assert.deepEqual(rules(...offline(21_200)), ["picture"]);
    const online = (t) => [...socket(5000), picture(1000, false, 0), picture(t, true)];
    assert.deepEqual(rules(...online(5900)), []);
    assert.deepEqual(rules(...online(6200)), ["picture"]);
  });

  it("says for how long a picture was wrong beyond the bound, once for each stretch", () => {
    const wrong = [picture(5100, true), picture(25_000, true), picture(31_000, false)];
    const { violations } = check(history(...socket(5000, 20_000), ...wrong));
    assert.deepEqual(
      violations.map(({ rule, for: ms }) => [rule, ms]),
      [["picture", 10_000]],
    );
  });

  it("holds nothing against a picture that does not say that it is complete", () => {
    const stale = picture(5100, false, 2, "stale");
    const back = picture(51_000, false);
    const outage = fault("outage", 3000, 50_000);
    assert.deepEqual(rules(...socket(5000, 20_000), ...outage, stale, back), []);
  });

  it("gives the users of a killed node a lease, and not more", () => {
    const story = (t) => [
      ...socket(5000),
      ...fault("kill", 20_000, 45_000, "n2"),
      picture(5100, true),
      picture(t, false),
    ];
    assert.deepEqual(rules(...story(25_500)), []);
    assert.deepEqual(rules(...story(27_000)), ["picture"]);
    // Of others it is known at once.
    const elsewhere = [
      ...socket(5000, 20_000, "closed", "n3"),
      ...fault("kill", 20_000, 45_000, "n2"),
    ];
    assert.deepEqual(rules(...elsewhere, picture(5100, true), picture(25_500, false)), ["picture"]);
  });

  it("gives a connection that went silent the time of a heartbeat", () => {
    const story = (t) => [...socket(5000, 20_000, "hung"), picture(5100, true), picture(t, false)];
    assert.deepEqual(rules(...story(23_900)), []);
    assert.deepEqual(rules(...story(24_200)), ["picture"]);
  });

  it("takes nobody for gone whose node was silent for less than its lease", () => {
    const short = [...socket(1000), ...fault("stop", 20_000, 21_000, "n2")];
    assert.deepEqual(rules(...short, edge(1020, true, 1), edge(23_000, false, 2)), ["edge"]);
    const long = [...socket(1000), ...fault("stop", 20_000, 35_000, "n2")];
    const late = [edge(24_500, false, 2), edge(36_000, true, 3)];
    assert.deepEqual(rules(...long, edge(1020, true, 1), ...late), []);
    assert.deepEqual(
      rules(...long, edge(1020, true, 1), edge(21_000, false, 2), edge(36_000, true, 3)),
      ["edge"],
    );
    assert.deepEqual(rules(...long, edge(1020, true, 1), late[0], quiet(58_000)), ["untold"]);
  });

  it("lets neighbours give up a node that stood still for as long as they wait", () => {
    const story = (ms) => {
      const all = history(
        ...[...socket(1000), ...fault("stop", 20_000, 20_000 + ms, "n2")],
        ...[edge(1020, true, 1), edge(21_300, false, 2), edge(23_000, true, 3)],
      );
      all[0] = { ...all[0], settings: { ...SETTINGS, silence: 1200 } };
      return check(all).violations.map(({ rule }) => rule);
    };
    assert.deepEqual(story(2000), []);
    assert.ok(story(800).includes("edge"));
  });

  it("takes nobody for gone because Redis was away, or forgot everything", () => {
    for (const kind of ["outage", "stall", "restart", "wipe"]) {
      const story = [...socket(1000), ...fault(kind, 20_000, 32_000), edge(1020, true, 1)];
      assert.deepEqual(
        rules(...story, edge(34_000, false, 2), edge(36_000, true, 3)),
        ["edge"],
        kind,
      );
      assert.deepEqual(rules(...story, answer(34_000, false)), ["answer"], kind);
      const pictures = [picture(1100, true), picture(34_000, false), picture(36_000, true, 3)];
      assert.deepEqual(rules(...story, ...pictures), ["picture"], kind);
    }
  });

  it("expects nobody to know of what a node that is cut off has not told", () => {
    const story = (t) => [
      ...fault("cut", 4000, 12_000, "n2"),
      ...socket(5000),
      picture(1000, false, 0),
      picture(t, true),
    ];
    assert.deepEqual(rules(...story(16_500)), []);
    assert.deepEqual(rules(...story(17_500)), ["picture"]);
  });

  it("wants an observer's own node to know soon that it does not know", () => {
    const cut = [...socket(1000, 21_000, "closed", "n3"), ...fault("cut", 20_000, 40_000, "n1")];
    const shows = (t) => [
      picture(1100, true),
      picture(t, true, 1, "stale"),
      picture(41_000, false, 2),
    ];
    assert.deepEqual(rules(...cut, ...shows(24_000)), []);
    assert.deepEqual(rules(...cut, ...shows(30_000)), ["picture"]);
  });

  it("wants a client whose link went dead to notice it", () => {
    const deaf = { t: 20_000, what: "fault", id: 1, kind: "deaf", observer: "bob" };
    const story = [...socket(1000, 20_500), deaf, { t: 20_000, what: "healed", id: 1 }];
    assert.deepEqual(rules(...story, picture(1100, true), picture(24_000, true, 1, "stale")), [
      "healing",
    ]);
    const back = [picture(24_000, true, 1, "stale"), picture(24_100, false, 2)];
    assert.deepEqual(rules(...story, picture(1100, true), ...back), []);
    assert.deepEqual(rules(...story, picture(1100, true), picture(28_000, false, 2)), ["picture"]);
  });

  it("finds changes that are told twice, backwards, or never", () => {
    const both = socket(5000, 20_000);
    assert.deepEqual(rules(...both, edge(5020, true, 2), edge(20_100, false, 1)), ["order"]);
    assert.deepEqual(rules(...both, edge(5020, true, 2), edge(20_100, false, 2)), [
      "order",
      "one history",
    ]);
    assert.deepEqual(rules(...both, edge(5020, true, 1), edge(5600, true, 2)), ["alternation"]);
    assert.deepEqual(rules(...both, edge(5020, true, 1), quiet(40_000)), ["untold"]);
    assert.deepEqual(rules(...socket(5000), quiet(40_000)), ["untold"]);
    // Another connection begins anew.
    const anew = { t: 10_000, what: "here", observer: "bob", node: "n1" };
    assert.deepEqual(rules(...both, edge(5020, true, 1), anew, edge(20_100, false, 2)), []);
  });

  it("finds changes that are not true", () => {
    assert.deepEqual(
      rules(...socket(5000), edge(5020, true, 1), edge(9000, false, 2), edge(9100, true, 3)),
      ["edge"],
    );
    assert.deepEqual(rules(edge(5000, true, 1), edge(5100, false, 2)), ["edge"]);
  });

  it("excuses what the pages say that is not promised when memory was lost", () => {
    const twice = [...socket(1000), edge(1020, true, 1), edge(24_000, true, 2)];
    assert.deepEqual(rules(...twice), ["alternation"]);
    assert.deepEqual(rules(...twice, ...fault("wipe", 20_000, 20_100)), ["alternation"]);
    const losses = [...fault("wipe", 20_000, 20_100), ...fault("wipe", 21_000, 21_100)];
    const wiped = check(history(...twice, ...losses));
    assert.deepEqual([wiped.violations, wiped.excused], [[], 1]);
    // Nobody is left who knew them.
    const lost = [...socket(1000), edge(1020, true, 1), ...fault("kill", 20_000, 22_000, "n2")];
    assert.deepEqual(rules(...lost, quiet(50_000)), ["untold"]);
    assert.deepEqual(rules(...lost, ...fault("wipe", 20_100, 20_200), quiet(50_000)), []);
    // What came meanwhile, to a node that was cut off.
    const missed = [...socket(21_000), ...fault("cut", 20_000, 26_000, "n1")];
    assert.deepEqual(rules(...missed, quiet(50_000)), ["untold"]);
    assert.deepEqual(rules(...missed, ...fault("wipe", 23_000, 23_100), quiet(50_000)), []);
  });

  it("holds answers to the moment in which they were given, and stale ones to theirs", () => {
    const both = socket(5000, 20_000);
    assert.deepEqual(rules(...both, answer(10_000, true), answer(25_000, false)), []);
    assert.deepEqual(rules(...both, answer(10_000, false)), ["answer"]);
    assert.deepEqual(rules(...both, answer(25_000, true)), ["answer"]);
    const asOf = UNIX + 15_000;
    const stale = (online) => ({ ...answer(25_000, online, { stale: true }), asOf });
    assert.deepEqual(rules(...both, stale(true)), []);
    const before = { ...answer(25_000, true, { stale: true }), asOf: UNIX + 23_000 };
    assert.deepEqual(rules(...both, before), ["answer"]);
    const unknown = answer(10_000, false, { stale: true, rev: 0 });
    assert.deepEqual(rules(...both, unknown), []);
    const here = { t: 1000, what: "here", observer: "bob", node: "n1" };
    const told = answer(6000, true);
    assert.deepEqual(rules(here, ...both, unknown), []);
    assert.deepEqual(rules(here, ...both, told, unknown), ["answer"]);
    assert.deepEqual(rules(here, ...both, told, ...fault("cut", 8000, 9000, "n1"), unknown), []);
    const cut = fault("cut", 8000, 12_000, "n1");
    assert.deepEqual(rules(here, ...both, told, ...cut, unknown), ["answer"]);
    assert.deepEqual(rules(here, ...both, told, ...fault("wipe", 8000, 12_000), unknown), []);
    assert.deepEqual(rules(...both, { ...answer(10_000, true), asOf: UNIX + 12_000 }), ["asOf"]);
  });

  it("counts devices: those with names once, and each socket without", () => {
    const on = (from, device, name) => {
      const [dial, ...rest] = socket(from, undefined, "closed", "n2", name);
      return [{ ...dial, device }, ...rest];
    };
    const three = [...on(5000, "d1"), ...on(5001, "d1", "two"), ...on(5002, undefined, "three")];
    const says = (devices, t = 10_000) => answer(t, true, { devices });
    assert.deepEqual(rules(...three, says(2)), []);
    assert.deepEqual(rules(...three, says(1)), ["devices"]);
    assert.deepEqual(rules(...three, says(3)), ["devices"]);
    // A moment after they came, some may not be known yet.
    assert.deepEqual(rules(...three, says(1, 5500)), []);
    const gone = { t: 20_000, what: "down", socket: "three", how: "closed" };
    assert.deepEqual(rules(...three, gone, says(2, 20_500), says(1, 20_500)), []);
    assert.deepEqual(rules(...three, gone, says(2, 30_000)), ["devices"]);
  });

  it("counts the changes of a watch, and makes the picture of them", () => {
    const both = socket(5000, 20_000);
    const on = change(5060, 1, { ann: [true, 1] });
    const off = (t, rev = 2) => change(t, rev, { ann: [false, 2] });
    assert.deepEqual(rules(...both, watched(1000), on, off(20_100)), []);
    assert.deepEqual(rules(...both, watched(1000), on, off(20_100, 3)), ["hole"]);
    assert.deepEqual(rules(...both, watched(1000), on, off(20_100, 1)), ["hole"]);
    assert.deepEqual(rules(...both, watched(1000), on, off(25_000)), ["picture"]);
    assert.deepEqual(rules(...both, watched(1000), on, change(20_100, 2, { ann: [false, 0.5] })), [
      "order",
    ]);
    // Of another epoch: of a watch that is over.
    assert.deepEqual(
      rules(...both, watched(1000), on, { ...off(20_100, 7), epoch: "d" }, off(20_200)),
      [],
    );
    // What is stale says so, and catching up is not there yet.
    const stale = change(20_100, 2, {}, { stale: true });
    assert.deepEqual(rules(...both, watched(1000), on, stale, off(22_000, 3)), ["healing"]);
    const behind = watched(6000, {}, { head: 1, recovered: true });
    assert.deepEqual(
      rules(...both, watched(1000), behind, change(7000, 1, { ann: [true, 1] }), off(20_100)),
      [],
    );
  });

  it("knows who is in a room", () => {
    const join = (t, what) => ({ t, what, socket: "s5000", room: "r" });
    const inside = [
      ...socket(5000),
      join(8000, "join"),
      join(8010, "in"),
      join(20_000, "leave"),
      join(20_010, "out"),
    ];
    const shows = (t, users) => ({ ...picture(t, true, 1, "complete", "room:r"), users });
    const there = { ann: [true, 1] };
    assert.deepEqual(rules(...inside, shows(1000, {}), shows(8100, there), shows(20_100, {})), []);
    assert.deepEqual(rules(...inside, shows(1000, {}), shows(6000, there), shows(20_100, {})), [
      "picture",
    ]);
    assert.deepEqual(rules(...inside, shows(1000, {}), shows(10_000, there), shows(20_100, {})), [
      "picture",
    ]);
    assert.deepEqual(rules(...inside, shows(1000, {}), shows(8100, there), shows(22_000, {})), [
      "picture",
    ]);
  });

  describe("where those hear who share a room", () => {
    const told = (...events) => {
      const all = history({ t: 2, what: "joined", observer: "bob" }, ...events);
      all[0] = { ...all[0], settings: { ...SETTINGS, announce: "r" } };
      return [...new Set(check(all).violations.map(({ rule }) => rule))];
    };
    const room = (t, what, name = "s5000") => ({ t, what, socket: name, room: "r" });
    const come = (t, name) => [room(t, "join", name), room(t + 10, "in", name)];
    const go = (t, name) => [room(t, "leave", name), room(t + 10, "out", name)];

    it("wants them to hear who comes into it, and who goes without having left it", () => {
      const inside = [...socket(5000, 20_000), ...come(8000)];
      const both = [edge(8050, true, 1), edge(20_100, false, 2)];
      assert.deepEqual(told(...inside, ...both, quiet(40_000)), []);
      assert.deepEqual(told(...inside, both[0], quiet(40_000)), ["untold"]);
      assert.deepEqual(told(...socket(5000), ...come(8000), quiet(40_000)), ["untold"]);
      // Nobody knows of who is not in it.
      assert.deepEqual(told(...socket(5000), quiet(40_000)), []);
      assert.deepEqual(told(...socket(5000), edge(5050, true, 1), quiet(40_000)), ["edge"]);
      const left = [...socket(5000, 30_000), ...come(8000), ...go(15_000)];
      assert.deepEqual(told(...left, both[0], quiet(40_000)), []);
    });

    it("lets who left it be new there again, by the same number, and nobody else", () => {
      const back = [...socket(5000), ...come(8000), ...go(15_000), ...come(20_000)];
      const twice = [edge(8050, true, 1), edge(20_050, true, 1)];
      assert.deepEqual(told(...back, ...twice, quiet(40_000)), []);
      assert.deepEqual(told(...socket(5000), ...come(8000), ...twice), ["order", "alternation"]);
      assert.deepEqual(told(...back, edge(8050, true, 2), edge(20_050, true, 1)), ["order"]);
    });

    it("holds nothing against them before they have come into it", () => {
      const late = [...socket(5000), ...come(8000), quiet(40_000)];
      const at = (t) => [
        { t, what: "here", observer: "bob", node: "n1" },
        { t: t + 10, what: "joined", observer: "bob" },
      ];
      assert.deepEqual(told(...late, ...at(20_000)), []);
      assert.deepEqual(told(...late, at(3000)[0]), []);
      assert.deepEqual(told(...late, ...at(3000)), ["untold"]);
      const gone = [...socket(5000, 30_000), ...come(8000), quiet(50_000), ...at(20_000)];
      assert.deepEqual(told(...gone), ["untold"]);
      assert.deepEqual(told(...gone, edge(30_050, false, 2)), []);
    });
  });

  it("lets whoever was on a node that another build replaces be there until they are back", () => {
    const story = (t) => [
      ...[...socket(5000, 20_100, "lost"), ...fault("replace", 20_000, 24_000, "n2")],
      ...[picture(5100, true), picture(t, false)],
    ];
    assert.deepEqual(rules(...story(34_000)), []);
    assert.deepEqual(rules(...story(36_000)), ["picture"]);
  });

  it("takes nobody for gone because a slot moved, or another server took a master's place", () => {
    for (const kind of ["reshard", "handover", "shard"]) {
      const story = [...socket(1000), ...fault(kind, 20_000, 24_000), edge(1020, true, 1)];
      assert.deepEqual(rules(...story, quiet(40_000)), [], kind);
      const told = [edge(25_000, false, 2), edge(26_000, true, 3)];
      assert.deepEqual(rules(...story, ...told), ["edge"], kind);
    }
  });

  it("wants pictures to be complete again one lease after the last fault", () => {
    const story = (t) => [
      ...fault("outage", 10_000, 14_000),
      picture(1000, false, 0),
      picture(12_000, false, 0, "stale"),
      picture(t, false, 0),
    ];
    assert.deepEqual(rules(...story(19_500)), []);
    assert.deepEqual(rules(...story(21_000)), ["healing"]);
    assert.deepEqual(rules(picture(1000, false, 0), picture(30_000, false, 0, "catching-up")), [
      "healing",
    ]);
  });

  it("wants one number of a user to mean one thing, whoever is told of it", () => {
    const eve = { ...edge(5030, false, 1), observer: "eve" };
    assert.deepEqual(rules(...socket(5000, 5500), edge(5020, true, 1), eve), ["one history"]);
    const both = [...socket(5000, 20_000), edge(5020, true, 1), edge(20_100, false, 2)];
    assert.deepEqual(rules(...both, answer(20_200, true, { rev: 2 })), ["rev"]);
    // A lease is over before that has a number; it does not come back under the old one.
    const early = answer(20_050, false, { rev: 1 });
    assert.deepEqual(rules(...both, early), []);
    assert.deepEqual(rules(...both, early, answer(20_080, true)), ["one history"]);
    const back = [picture(1000, false, 0), picture(5060, true, 5), picture(9000, true, 4)];
    assert.deepEqual(rules(...socket(5000), ...back), ["order"]);
  });

  it("holds nothing against the server while the clients' own machine stood still", () => {
    const wrong = [picture(5100, true), picture(22_000, false)];
    assert.deepEqual(rules(...socket(5000, 20_000), ...wrong), ["picture"]);
    assert.deepEqual(
      rules(...socket(5000, 20_000), ...wrong, { t: 22_000, what: "stall", ms: 1500 }),
      [],
    );
  });

  it("is a command for a history's file, and ends with 1 when that is red", () => {
    const folder = mkdtempSync(join(tmpdir(), "heartline-truth-"));
    const file = join(folder, "history.jsonl");
    const run = (...events) => {
      writeFileSync(
        file,
        history(...events)
          .map((event) => JSON.stringify(event))
          .join("\n"),
      );
      const script = fileURLToPath(new URL("check.js", import.meta.url));
      return execFileSync(process.execPath, [script, file], { encoding: "utf8" });
    };
    assert.match(run(...socket(5000)), /true/);
    assert.throws(() => run(edge(5000, true, 1)), { status: 1 });
    rmSync(folder, { recursive: true });
  });
});

describe("a schedule of faults", () => {
  const options = { lease: 4000, hasClock: true, hasBuilds: true };
  const some = Array.from({ length: 300 }, (_, seed) => seed);

  it("follows from its seed, and names faults that there are", () => {
    const seen = new Set();
    const ways = new Set();
    for (const seed of some) {
      const one = schedule(seed, options);
      assert.deepEqual(one, schedule(seed, options));
      for (const { kind, at, ms } of one.faults) {
        assert.ok(KINDS[kind] && at >= 0 && ms >= 0);
        seen.add(kind);
      }
      ways.add(`${one.topology} ${one.announce}`);
    }
    assert.deepEqual([...seen].sort(), Object.keys(KINDS).sort());
    assert.equal(ways.size, 6);
  });

  it("has what it is asked for, and no other build where there is none", () => {
    const kinds = (more) =>
      some.flatMap((seed) => schedule(seed, { ...options, ...more }).faults.map((one) => one.kind));
    assert.deepEqual([...new Set(kinds({ only: ["kill"] }))], ["kill"]);
    assert.ok(!kinds({ hasBuilds: false }).some((kind) => /replace|roll/.test(kind)));
    const only = { ...options, only: ["reshard"], announce: ["rooms"] };
    const one = schedule(7, only);
    assert.deepEqual([one.topology, one.announce], ["cluster", "rooms"]);
    assert.throws(() => schedule(7, { ...only, redis: ["plain"] }), /no such faults/);
  });

  it("takes no node while nodes are replaced one after the other", () => {
    for (const seed of some) {
      const { faults } = schedule(seed, options);
      const roll = faults.find(({ kind }) => kind === "roll");
      const isMet = ({ at, node }) => node !== undefined && at > roll.at && at < roll.at + 12_000;
      if (roll) assert.ok(!faults.some(isMet), `${seed}`);
    }
  });
});

describe("spans of time", () => {
  it("are joined, met and taken away", () => {
    assert.deepEqual(
      union([
        [5, 6],
        [1, 2],
        [2, 3],
        [4, 4],
      ]),
      [
        [1, 3],
        [5, 6],
      ],
    );
    assert.deepEqual(
      common(
        [[1, 5]],
        [
          [0, 2],
          [4, 9],
        ],
      ),
      [
        [1, 2],
        [4, 5],
      ],
    );
    assert.deepEqual(
      without(
        [[0, 10]],
        [
          [2, 3],
          [9, 12],
        ],
      ),
      [
        [0, 2],
        [3, 9],
      ],
    );
    assert.deepEqual(outside([[1, 2]]), [
      [-Infinity, 1],
      [2, Infinity],
    ]);
    assert.ok(covers([[0, 4]], 1, 4) && !covers([[0, 4]], 1, 5));
    assert.ok(touches([[0, 4]], 3, 9) && !touches([[0, 4]], 4, 9));
  });
});
