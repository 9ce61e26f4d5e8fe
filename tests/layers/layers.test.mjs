// What scripts/layers.mjs refuses and lets pass, on small trees in a temporary folder.
//
//   node --test tests/layers/layers.test.mjs
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { check, propose } from "../../scripts/layers.mjs";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const SCRIPT = join(ROOT, "scripts/layers.mjs");

function folder(t) {
  const path = mkdtempSync(join(tmpdir(), "layers-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

function write(root, files) {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
}

/** A workspace of one crate `crates/a` with `low` in row 1 and `high` in row 2, in which
 *  nothing is wrong; `changes` are written over it, paths in its src/ or from the root. */
function tree(t, changes = {}, { rows = [["low"], ["high"]], deps = ["bytes"], ...more } = {}) {
  const { long = {}, ...entry } = more;
  const root = folder(t);
  const map = rows.flatMap((row, index) =>
    row.map((name) => `| ${index + 1} | \`${name}\` | why it changes |`),
  );
  write(root, {
    "Cargo.toml": '[workspace]\nmembers = [\n    "crates/a",\n]\n',
    "crates/a/Cargo.toml": '[package]\nname = "a"\n\n[dependencies]\nbytes.workspace = true\n',
    "crates/a/src/lib.rs": "mod high;\nmod low;\n",
    "crates/a/src/low.rs": "pub(crate) struct Low;\n",
    "crates/a/src/high.rs": "use crate::low::Low;\n\npub(crate) struct High(Low);\n",
    "ARCHITECTURE.md": ["# Map", "", "### `crates/a`", "", "<!-- layers -->", "",
      "| row | module | what |", "|---:|---|---|", ...map, ""].join("\n"),
    "scripts/layers.json": JSON.stringify({ "crates/a": { rows, deps, ...entry }, long }),
  });
  for (const [path, text] of Object.entries(changes)) {
    write(root, { [path.endsWith(".rs") ? `crates/a/src/${path}` : path]: text });
  }
  return root;
}

const faults = (root) => check(root).faults;

/** That one thing is wrong, and that its sentence has all of these in it. */
function refuses(root, ...parts) {
  const found = faults(root);
  assert.equal(found.length, 1, `one fault, not these: ${found.join("\n")}`);
  for (const part of parts) assert.ok(found[0].includes(part), `"${part}" in: ${found[0]}`);
}

const passes = (root) => assert.deepEqual(faults(root), []);

const UPWARD = "use crate::high::High;\n";

test("an arrow that points down passes, one that points up is told with both ends", (t) => {
  passes(tree(t));
  const upward = "// A comment.\n\nuse crate::high::High;\n";
  const root = tree(t, { "low.rs": upward, "high.rs": "pub(crate) struct High;\n" });
  refuses(root, "crates/a/src/low.rs:3:", "`low` (row 1)", "`high` (row 2)", "move what it needs");
});

test("the command says what is wrong and exits with 1, or that nothing is and with 0", (t) => {
  const run = (root) => spawnSync("node", [SCRIPT, "--root", root], { encoding: "utf8" });
  const good = run(tree(t));
  assert.equal(good.stdout, "layers: 2 modules in 1 crates, no arrow points up\n");
  assert.equal(good.status, 0);
  const bad = run(tree(t, { "low.rs": UPWARD, "high.rs": "" }));
  assert.equal(bad.status, 1);
  assert.match(bad.stderr, /`low` \(row 1\) uses `high` \(row 2\)/);
});

const UPWARD_SPELLINGS = {
  "a path in code": "fn f() { crate::high::go(); }\n",
  "super": "use super::high::High;\n",
  "self of the parent": "use super::{self as root, high};\n",
  "nested braces": `use crate::{
    low2,
    high::{
        inner::{self, A},
        B as _,
    },
};
`,
  "a root by another name": "use crate as top;\nfn f() { top::high::go(); }\n",
  "a path in a macro's arguments": 'fn f() { println!("{}", crate::high::NAME); }\n',
  "a path in a macro's rules": "macro_rules! m { () => { $crate::high::go() } }\n",
  "a use in a macro's rules": "macro_rules! m { () => { use $crate::{a, high::B}; } }\n",
  "a type argument": "fn f(x: Vec<crate::high::High>) {}\n",
  "a module in the file": "mod inner { use super::super::high::High; }\n",
  "a use inside of a function": "fn f() {\n    use crate::high::*;\n}\n",
  "behind text that looks like a comment": 'const A: &str = "/* //";\nuse crate::high::High;\n',
  "behind a quote that is a character": "const A: char = '\"';\nuse crate::high::High; // \"\n",
  "behind a raw text": 'const A: &str = r#"a"b"#;\nuse crate::high::High;\n',
  "beside lifetimes": "fn f<'a>(x: &'a str, y: &'a crate::high::High) {}\n",
  "code that is for all but tests": "#[cfg(not(test))]\nuse crate::high::High;\n",
  "behind an item of tests": "#[cfg(test)]\nconst A: [u8; 1] = { [1] };\nuse crate::high::High;\n",
  "behind a field of tests": `struct A {
    #[cfg(test)]
    pub a: u8,
    b: crate::high::High,
}
`,
};
for (const [name, source] of Object.entries(UPWARD_SPELLINGS)) {
  test(`an arrow that points up is seen: ${name}`, (t) => {
    const found = faults(tree(t, { "low.rs": source, "high.rs": "" }));
    assert.ok(found.some((fault) => fault.includes("uses `high` (row 2)")), found.join("\n"));
  });
}

const NO_ARROWS = {
  "a comment": "// use crate::high::High;\n/* /* */ use crate::high::High; */\n",
  "a link in a docstring": "/// See [`crate::high::High`].\nstruct Low;\n",
  "text": 'const A: &str = "use crate::high::High; \\" crate::high";\n',
  "raw text": 'const A: &str = r##"crate::high::High "# crate::high"##;\n',
  "a visibility": "pub(in crate::high) struct Low;\n",
  "another crate's module of that name": "use other::high::High;\nuse ::high::Low;\n",
  "a module of tests": `#[cfg(test)]
mod tests {
    use super::*;
    use crate::high::High;
}
`,
  "a module of tests with attributes": `#[cfg(test)]
#[allow(unused)]
mod tests {
    use crate::high::High;
}
`,
  "a use for tests": "#[cfg(test)]\nuse crate::high::{High, Other};\n",
  "a constant for tests": "#[cfg(test)]\nconst A: u8 = if B { 1 } else { crate::high::C };\n",
  "a file of tests": "#[cfg(test)]\nmod tests;\n",
  "a function for tests on one system": '#[cfg(all(test, unix))]\nfn f() { crate::high::go(); }\n',
};
for (const [name, source] of Object.entries(NO_ARROWS)) {
  test(`no arrow is seen in ${name}`, (t) => {
    passes(tree(t, { "low.rs": source, "low/tests.rs": UPWARD }));
  });
}

test("what the root exports of a module counts as that module's", (t) => {
  const lib = `mod high;
mod low;
pub use high::High;
pub use low::Low;
pub use bytes::Bytes;
`;
  passes(tree(t, { "lib.rs": lib, "high.rs": "use crate::{Bytes, Low};\n" }));
  const up = tree(t, { "lib.rs": lib, "low.rs": "use crate::High;\n", "high.rs": "" });
  refuses(up, "`low` (row 1) uses `high` (row 2)");
});

test("what a module passes on counts as that module's", (t) => {
  const rows = [["low"], ["middle"], ["high"]];
  const lib = "mod high;\nmod low;\nmod middle;\n";
  const passed = { "lib.rs": lib, "middle.rs": "pub(crate) use crate::low::Low;\n" };
  passes(tree(t, { ...passed, "high.rs": "use crate::middle::Low;\n" }, { rows }));
  const up = tree(t, { ...passed, "low.rs": "use crate::middle::Low;\n" }, { rows });
  refuses(up, "`low` (row 1) uses `middle` (row 2)");
});

test("an item of the crate's root stands above all rows", (t) => {
  const lib = "mod high;\nmod low;\nstruct Top;\n";
  const root = tree(t, { "lib.rs": lib, "low.rs": "use crate::Top;\n" });
  refuses(root, "`low` (row 1)", "`crate::Top`", "above all rows");
});

test("a file below a folder that stands alone belongs to it, with whatever it uses there", (t) => {
  const inside = {
    "high.rs": "mod part;\nuse part::Part;\nuse crate::low::Low;\n",
    "high/part.rs": "use super::High;\n",
  };
  passes(tree(t, inside));
  const upward = { "low.rs": "use crate::high::part::Part;\n", "high.rs": "mod part;\n" };
  refuses(tree(t, { ...inside, ...upward }), "`low` (row 1) uses `high` (row 2)");
});

test("a module is known by the name that a file gives it", (t) => {
  const rows = [["high"], ["low"], ["high/part"]];
  const files = { "high.rs": "mod part;\n", "high/part.rs": "" };
  const renamed = "use crate::{high as h};\nfn f() { h::go(); h::part::go(); }\n";
  const root = tree(t, { ...files, "low.rs": renamed }, { rows });
  refuses(root, "low.rs:2:", "`low` (row 2) uses `high/part` (row 3)");
  passes(tree(t, { ...files, "low.rs": renamed.replace("h::part", "other::part") }, { rows }));
});

test("files of a folder with rows of their own are held to them", (t) => {
  const rows = [["low", "high/part"], ["high"]];
  const files = { "high/part.rs": "", "high.rs": "mod part;\nfn f() { part::go(); }\n" };
  passes(tree(t, files, { rows }));
  const upward = { "high/part.rs": "use super::High;\n", "high.rs": "mod part;\n" };
  const up = tree(t, { ...files, ...upward }, { rows });
  refuses(up, "crates/a/src/high/part.rs:1:", "`high/part` (row 1) uses `high` (row 2)");
  const low = "use crate::high::inner::A;\n";
  const inner = { "high.rs": "mod part;\nmod inner {}\n", "low.rs": low };
  refuses(tree(t, { ...files, ...inner }, { rows }), "`low` (row 1) uses `high` (row 2)");
  const more = { "high.rs": "mod part;\nmod more;\n", "high/more.rs": "" };
  const left = tree(t, { ...files, ...more }, { rows });
  refuses(left, "crates/a/src/high/more.rs:1:", "`high/more` stands in no row");
});

test("modules of one row may use each other in one direction", (t) => {
  passes(tree(t, {}, { rows: [["low", "high"]] }));
});

test("modules of one row that use each other are refused, round a corner too", (t) => {
  const both = tree(t, { "low.rs": UPWARD }, { rows: [["low", "high"]] });
  refuses(both, "`low` uses `high`", "`high` uses `low`", "high.rs:1");
  const corner = tree(
    t,
    {
      "lib.rs": "mod high;\nmod low;\nmod mid;\n",
      "low.rs": UPWARD,
      "high.rs": "use crate::mid::M;\n",
      "mid.rs": "use crate::low::L;\n",
    },
    { rows: [["low", "mid", "high"]] },
  );
  refuses(corner, "`low` uses `high`", "`high` uses `mid`", "`mid` uses `low`");
});

test("a module in no row, in two rows, and a row's module that does not exist are refused", (t) => {
  const more = { "lib.rs": "mod high;\nmod low;\nmod more;\n", "more.rs": "" };
  refuses(tree(t, more), "crates/a/src/more.rs:1:", "`more` stands in no row");
  const twice = faults(tree(t, {}, { rows: [["low"], ["high", "low"]] }));
  assert.ok(twice.some((fault) => fault.includes("`low` of crates/a stands in two rows")));
  const gone = faults(tree(t, {}, { rows: [["low", "gone"], ["high"]] }));
  const named = "scripts/layers.json:1: row 1 of crates/a names `gone`";
  assert.ok(gone.some((fault) => fault.startsWith(named)), gone.join("\n"));
});

test("a module for tests alone needs no row and may have none", (t) => {
  const lib = { "lib.rs": "mod high;\nmod low;\n#[cfg(test)]\nmod model;\n", "model.rs": UPWARD };
  passes(tree(t, lib));
  const saysItself = { "lib.rs": "mod high;\nmod low;\nmod model;\n" };
  passes(tree(t, { ...saysItself, "model.rs": `//! A model.\n#![cfg(test)]\n${UPWARD}` }));
  const found = faults(tree(t, lib, { rows: [["low", "model"], ["high"]] }));
  assert.ok(found.some((fault) => fault.includes("names `model`")), found.join("\n"));
});

const MANIFEST = "crates/a/Cargo.toml";

test("a dependency that is not listed is refused, and a listed one that is gone", (t) => {
  refuses(tree(t, {}, { deps: [] }), `${MANIFEST}:5:`, "`bytes` is not among");
  refuses(tree(t, {}, { deps: ["bytes", "mio"] }), "scripts/layers.json:1:", "no dependency `mio`");
});

test("dependencies are found however they are written; those of tests do not count", (t) => {
  const manifest = `[package]
name = "a"

[dependencies] # bytes, to begin with
bytes.workspace = true
"quoted" = "1"
# off = "1"
many = { version = "1", features = [
    "one", # = ]
    "two",
] }
other = { package = "renamed", version = "1" }

[dependencies.table]
version = "1"

[dependencies.alias]
package = "renamed-too"

[target.'cfg(not(target_env = "msvc"))'.dependencies]
target = "1"

[dev-dependencies]
proptest = "1"

[target.'cfg(unix)'.dev-dependencies]
nix = "1"

[features]
default = []
`;
  const deps = ["bytes", "quoted", "many", "renamed", "table", "renamed-too", "target"];
  passes(tree(t, { [MANIFEST]: manifest }, { deps }));
});

test("a crate of the workspace without rows is refused, and rows without a crate", (t) => {
  const root = tree(t, { "Cargo.toml": '[workspace]\nmembers = ["crates/*"]\n' });
  passes(root);
  write(root, { "crates/b/Cargo.toml": "", "crates/b/src/main.rs": "fn main() {}\n" });
  refuses(root, "no rows for crates/b");
  refuses(tree(t, { "Cargo.toml": '[workspace]\nmembers = []\n' }), "crates/a is no member");
});

test("a folder that is held to what the crate exports may use nothing else of it", (t) => {
  const held = { public_only: { high: ["shared"] } };
  const lib = (line) => ({ "lib.rs": `mod high;\n${line}\nfn bytes() {}\n` });
  const withLow = (source, line = "mod low;") =>
    tree(t, { ...lib(line), "high.rs": source }, held);
  refuses(withLow("use crate::low::Low;\n"), "high.rs:1:", "`crate::low::Low`", "lib.rs exports");
  refuses(withLow("fn f() {\n    super::low::go();\n}\n"), "high.rs:2:", "`crate::low::go`");
  refuses(withLow("use crate::Low;\n", "mod low;\npub(crate) use low::Low;"), "`crate::Low`");
  refuses(withLow("use crate::low::Low;\n", "mod low;\npub use low::Low;"), "`crate::low::Low`");
  passes(withLow("use crate::Low;\n", "mod low;\npub use low::{Inner, Lowest as Low};"));
  passes(withLow("use crate::low::Low;\n", "pub mod low;"));
});

test("a field that apps cannot reach is refused there, over two lines too", (t) => {
  const held = { public_only: { high: ["shared"] } };
  const reaching = tree(t, { "high.rs": "fn f() {\n    socket\n        .shared;\n}\n" }, held);
  refuses(reaching, "high.rs:3:", "`.shared`");
  passes(tree(t, { "high.rs": "fn shared() { socket.shares(shared); } // .shared\n" }, held));
  passes(tree(t, { "low.rs": "fn f() { socket.shared; }\n", "high.rs": "" }, held));
});

/** A function of so many lines. */
const lines = (count, name = "long") =>
  `fn ${name}(\n    a: [u8; 2],\n) {\n${'    go("}");\n'.repeat(count - 4)}}\n`;

test("a function of 70 lines passes, a longer one is refused unless it is listed as long", (t) => {
  const key = "crates/a/src/low.rs fn long";
  passes(tree(t, { "low.rs": lines(70) }));
  refuses(tree(t, { "low.rs": `\n${lines(71)}` }), "low.rs:2:", "`fn long` has 71 lines");
  passes(tree(t, { "low.rs": lines(71) }, { long: { [key]: 71 } }));
  refuses(tree(t, { "low.rs": lines(72) }, { long: { [key]: 71 } }), "from 71 lines to 72");
  refuses(tree(t, { "low.rs": lines(75) }, { long: { [key]: 80 } }), "write 75 instead");
  refuses(tree(t, { "low.rs": lines(70) }, { long: { [key]: 80 } }), "take it out");
  passes(tree(t, { "low.rs": `#[cfg(test)]\nmod tests {\n${lines(90)}}\n#[test]\n${lines(90)}` }));
});

test("of two long functions with one name each stands for itself", (t) => {
  const twice = { "low.rs": `impl A {\n${lines(71)}}\nimpl B {\n${lines(80)}}\n` };
  const long = { "crates/a/src/low.rs fn long": 71 };
  refuses(tree(t, twice, { long }), "`fn long (2)` has 80 lines");
});

const heading = "### crates/a\n\n<!-- layers -->\n| row | module | what |\n|---:|---|---|\n";

test("a crate without a marked map is refused", (t) => {
  refuses(tree(t, { "ARCHITECTURE.md": "" }), "ARCHITECTURE.md:1:", "no map of crates/a");
  const rows = "| 1 | `low` | x |\n| 2 | `high` | x |\n";
  const unmarked = heading.replace("<!-- layers -->\n", "") + rows;
  refuses(tree(t, { "ARCHITECTURE.md": unmarked }), "no map of crates/a");
  const elsewhere = heading.replace("crates/a\n", "crates/ab\n") + rows;
  refuses(tree(t, { "ARCHITECTURE.md": elsewhere }), "no map of crates/a");
});

test("a map that differs from the rows is refused", (t) => {
  const low = "| 1 | `low` | x |\n", high = "| 2 | `high` | x |\n";
  const map = (rows) => tree(t, { "ARCHITECTURE.md": `${heading}${rows}\nMore.\n` });
  passes(map(low + high));
  refuses(map(low), "ARCHITECTURE.md:6:", "without `high` of row 2");
  refuses(map(low + high.replace("2", "3")), "ARCHITECTURE.md:7:", "`high` in row 3", "in row 2");
  refuses(map(`${low}${high}| 2 | \`gone\` | x |\n`), "ARCHITECTURE.md:8:", "`gone` in row 2");
});

test("a map that names a module twice, or has a row below a higher one, is refused", (t) => {
  const low = "| 1 | `low` | x |\n", high = "| 2 | `high` | x |\n";
  const files = { "high.rs": "mod one;\n", "high/one.rs": "" };
  const map = (rows) => tree(t, { ...files, "ARCHITECTURE.md": heading + rows });
  passes(map(low + high));
  refuses(map(low + high + high), "ARCHITECTURE.md:8:", "names `high` a second time");
  refuses(map("| 1 | `low`, `low` | x |\n" + high), "ARCHITECTURE.md:6:", "`low` a second time");
  const within = `${low}${high}| 2 | \`high/one\` | x |\n`;
  refuses(map(within), "ARCHITECTURE.md:8:", "names `high/one` a second time");
  refuses(map(high + low), "ARCHITECTURE.md:7:", "`low` of row 1 below row 2");
});

test("a map may name the files of a folder, and then names all of them", (t) => {
  const files = { "high.rs": "mod one;\nmod two;\n", "high/one.rs": "", "high/two.rs": "" };
  const map = (row) =>
    tree(t, { ...files, "ARCHITECTURE.md": `${heading}| 1 | \`low\` | x |\n${row}` });
  passes(map("| 2 | `high` | all of it |\n"));
  passes(map("| 2 | `high/{mod,one}` | x |\n| 2 | `high/two` | x |\n"));
  refuses(map("| 2 | `high/{mod,one}` | x |\n"), "without `high/two` of row 2");
});

test("rows that are proposed have no arrow that points up, and knots are told", (t) => {
  const files = {
    "lib.rs": "mod high;\nmod low;\nmod mid;\n",
    "high.rs": "mod part;\nuse crate::{low, mid::M};\n",
    "high/part.rs": "use super::High;\n",
    "mid.rs": "use crate::low::L;\n",
  };
  const root = tree(t, files, { rows: [] });
  const said = propose(root, "crates/a", ["high"]);
  assert.match(said, /\["low"\],\s+\["mid"\],\s+\["high"\]/);
  assert.doesNotMatch(said, /use each other/);
  const { rows } = JSON.parse(`{${said.replace(/,\s*$/, "")}}`)["crates/a"];
  passes(tree(t, files, { rows }));
  write(root, { "crates/a/src/low.rs": "use crate::mid::M;\n" });
  const knot = propose(root, "crates/a", ["high"]);
  assert.match(knot, /Row 1: 2 modules use each other: low, mid\n.*low\.rs:1: low -> mid/);
});

test("one line that points up in this repository is refused", (t) => {
  const root = folder(t);
  const skip = (path) => !/\/(target|node_modules)(\/|$)/.test(path.slice(ROOT.length));
  for (const path of ["crates", "Cargo.toml", "ARCHITECTURE.md", "scripts/layers.json"]) {
    cpSync(join(ROOT, path), join(root, path), { recursive: true, filter: skip });
  }
  const before = new Set(faults(root));
  const table = JSON.parse(readFileSync(join(root, "scripts/layers.json"), "utf8"));
  for (const [crate, { rows }] of Object.entries(table).filter(([name]) => name !== "long")) {
    if (rows.length < 2) continue;
    const [from] = rows[0], [to] = rows.at(-1);
    const file = [`${from}.rs`, `${from}/mod.rs`]
      .map((path) => `${crate}/src/${path}`)
      .find((path) => existsSync(join(root, path)));
    const source = readFileSync(join(root, file), "utf8");
    write(root, { [file]: `${source}\nuse crate::${to.replaceAll("/", "::")}::Something;\n` });
    const added = faults(root).filter((fault) => !before.has(fault));
    assert.equal(added.length, 1, `${crate}: ${added.join("\n")}`);
    const told = `\`${from}\` (row 1) uses \`${to}\` (row ${rows.length})`;
    assert.ok(added[0].includes(told), added[0]);
    write(root, { [file]: source });
  }
});
