// Holds the code to its architecture: the rows of modules in scripts/layers.json.
//
//   node scripts/layers.mjs                              exit 1 with a sentence a fault
//   node scripts/layers.mjs --propose CRATE [FOLDER...]  rows as the code has them today;
//                                                        each FOLDER counts as one module,
//                                                        as do those that the table has so
//   --root DIR                                           another tree than this one
//
// layers.json has an entry for each crate of the workspace:
//
//   rows         modules, ground first. `shard/wheel` is src/shard/wheel.rs. A folder that
//                stands alone (`hub`) means all of it; once a file of it stands in a row of
//                its own, each does, and the folder's name means its mod.rs.
//   deps         the packages that its Cargo.toml may depend on, tests aside
//   public_only  folders that may use only what lib.rs exports, each with the names of
//                fields that they may not reach either
//
// and under `long` the functions that are longer than 70 lines, with their lines. What is
// compiled for tests alone does not count anywhere; lib.rs and main.rs are above all rows.
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { readCrate } from "./layers/rust.mjs";
import { dependencies, map, members } from "./layers/tables.mjs";

const TABLE = "scripts/layers.json";
const MAP = "ARCHITECTURE.md";
/** What fits on a page and in a head, in lines from `fn` to the closing brace. */
const LONG = 70;

const read = (root, path) => readFileSync(join(root, path), "utf8");
const crateFolders = (root) =>
  members(read(root, "Cargo.toml")).flatMap((path) => {
    if (!path.endsWith("/*")) return [path];
    const folder = path.slice(0, -2);
    return readdirSync(join(root, folder))
      .map((name) => `${folder}/${name}`)
      .filter((crate) => existsSync(join(root, crate, "Cargo.toml")));
  });

/** Which row entry a module belongs to: its own, or that of a folder that stands alone. */
function unitOf(module, rowOf) {
  if (rowOf.has(module)) return module;
  for (let name = module; name.includes("/");) {
    name = name.slice(0, name.lastIndexOf("/"));
    if (!rowOf.has(name)) continue;
    const isSplit = [...rowOf.keys()].some((other) => other.startsWith(`${name}/`));
    return isSplit ? undefined : name;
  }
}

/** Groups of nodes that reach each other, those that use no other group first. */
function circles(nodes, next) {
  const index = new Map(), low = new Map(), stack = [], groups = [];
  const visit = (node) => {
    index.set(node, index.size);
    low.set(node, index.get(node));
    stack.push(node);
    for (const other of next(node)) {
      if (!index.has(other)) visit(other);
      if (stack.includes(other)) low.set(node, Math.min(low.get(node), low.get(other)));
    }
    if (low.get(node) === index.get(node)) groups.push(stack.splice(stack.indexOf(node)));
  };
  for (const node of nodes) if (!index.has(node)) visit(node);
  return groups;
}

/** The arrows of a shortest way round among modules that reach each other. */
function wayRound(arrows) {
  let shortest;
  for (const start of new Set(arrows.map(({ from }) => from))) {
    const ways = new Map([[start, []]]);
    for (const [node, way] of ways) {
      for (const arrow of arrows.filter(({ from }) => from === node)) {
        if (arrow.to === start && !(shortest?.length <= way.length + 1)) {
          shortest = [...way, arrow];
        }
        if (!ways.has(arrow.to)) ways.set(arrow.to, [...way, arrow]);
      }
    }
  }
  return shortest;
}

/** Arrows between row entries instead of between modules. */
function between(arrows, unit) {
  return arrows
    .map((arrow) => ({ ...arrow, from: unit(arrow.from), to: unit(arrow.to) }))
    .filter(({ from, to }) => from !== undefined && to !== undefined && from !== to);
}

function checkRows(sources, entry, at) {
  const faults = [];
  const { crate, modules, arrows } = sources;
  const rowOf = new Map();
  entry.rows.forEach((row, index) => {
    for (const name of row) {
      if (rowOf.has(name)) {
        faults.push(`${at(name)}: \`${name}\` of ${crate} stands in two rows; take one out.`);
      } else if (!modules.has(name)) {
        faults.push(
          `${at(name)}: row ${index + 1} of ${crate} names \`${name}\`, but there is no such ` +
            "module outside tests; take it out, or correct its name.",
        );
      }
      rowOf.set(name, index + 1);
    }
  });
  const unit = (module) => (module === "" ? "" : module && unitOf(module, rowOf));
  for (const { name, files: [{ file }] } of modules.values()) {
    if (unit(name) !== undefined) continue;
    faults.push(
      `${file}:1: the module \`${name}\` stands in no row of ${crate}; put it into one in ` +
        `${TABLE} (and into the map in ${MAP}), above all that it uses.`,
    );
  }
  const known = between(arrows.filter(({ from }) => from !== ""), unit);
  for (const { from, to, file, line, path } of known) {
    const [low, high] = [rowOf.get(from), to === "" ? Infinity : rowOf.get(to)];
    if (high <= low) continue;
    const target = to === ""
      ? `\`${["crate", ...path].join("::")}\`, which stands in the crate's root above all rows`
      : `\`${to}\` (row ${high}), which is above it`;
    faults.push(
      `${file}:${line}: \`${from}\` (row ${low}) uses ${target}; move what it needs to row ` +
        `${low} or lower, or hand it in as an argument.`,
    );
  }
  entry.rows.forEach((row, index) => {
    const inRow = known.filter(({ from, to }) => row.includes(from) && row.includes(to));
    const next = (node) => inRow.filter(({ from }) => from === node).map(({ to }) => to);
    for (const group of circles(row, next).filter(({ length }) => length > 1)) {
      const inGroup = inRow.filter(({ from, to }) => group.includes(from) && group.includes(to));
      const way = wayRound(inGroup).map(
        ({ from, to, file, line }) => `\`${from}\` uses \`${to}\` (${file}:${line})`,
      );
      faults.push(
        `${inGroup[0].file}:1: ${group.length} modules of row ${index + 1} of ${crate} use each ` +
          `other: ${way.join(", ")}; end one of these arrows, so that they go one way.`,
      );
    }
  });
  return { faults, unit, rowOf };
}

function checkPublicOnly({ crate, modules, arrows, exports }, entry) {
  const faults = [];
  for (const [folder, fields] of Object.entries(entry.public_only ?? {})) {
    const isIn = (module) => module === folder || module?.startsWith(`${folder}/`);
    for (const { from, to, path, file, line } of arrows) {
      if (!isIn(from) || isIn(to) || path.length === 0 || exports.has(path[0])) continue;
      faults.push(
        `${file}:${line}: \`${from}\` uses \`crate::${path.join("::")}\`, but \`${folder}\` may ` +
          `use only what ${crate}/src/lib.rs exports, as an app does; use that, or export it.`,
      );
    }
    for (const { name, files } of modules.values()) {
      if (!isIn(name)) continue;
      for (const { file, said } of files) {
        for (const { name: field, line } of said.fields) {
          if (!fields.includes(field)) continue;
          faults.push(
            `${file}:${line}: \`${name}\` reaches for \`.${field}\`, which no app can; give ` +
              "the handlers' API a method for it.",
          );
        }
      }
    }
  }
  return faults;
}

function checkDependencies(root, crate, entry, at) {
  const file = `${crate}/Cargo.toml`;
  const found = dependencies(read(root, file));
  const added = [...found].filter(([name]) => !entry.deps.includes(name)).map(
    ([name, line]) =>
      `${file}:${line}: the dependency \`${name}\` is not among the "deps" of ${crate} in ` +
      `${TABLE}; add it there if this crate is the place for it.`,
  );
  const gone = entry.deps.filter((name) => !found.has(name)).map(
    (name) => `${at(name)}: ${file} has no dependency \`${name}\` any more; take it out here.`,
  );
  return [...added, ...gone];
}

/** The long functions of a crate: `FILE fn NAME` to {lines, at}. Of several with one name
 *  in a file, the second has a (2) behind its own. */
function longFunctions({ modules }) {
  const found = new Map();
  for (const { files } of modules.values()) {
    for (const { file, said } of files) {
      for (const { name, line, lines } of said.functions) {
        if (lines <= LONG) continue;
        let key = `${file} fn ${name}`;
        for (let count = 2; found.has(key); count++) key = `${file} fn ${name} (${count})`;
        found.set(key, { lines, at: `${file}:${line}` });
      }
    }
  }
  return found;
}

function checkLong(found, listed, at) {
  const faults = [];
  for (const [key, { lines, at: place }] of found) {
    const name = key.slice(key.indexOf(" fn ") + 4);
    const allowed = listed[key];
    if (allowed === undefined) {
      faults.push(
        `${place}: \`fn ${name}\` has ${lines} lines, more than ${LONG}; take a step out of it ` +
          "into a function with a name.",
      );
    } else if (lines > allowed) {
      faults.push(
        `${place}: \`fn ${name}\` has grown from ${allowed} lines to ${lines}; the list of long ` +
          "functions may only get shorter.",
      );
    } else if (lines < allowed) {
      faults.push(`${at(key)}: \`${key}\` has only ${lines} lines now; write ${lines} instead.`);
    }
  }
  for (const key of Object.keys(listed)) {
    if (found.has(key)) continue;
    faults.push(`${at(key)}: \`${key}\` is gone or has at most ${LONG} lines now; take it out.`);
  }
  return faults;
}

function checkMap(markdown, { crate, modules }, { unit, rowOf }) {
  const table = map(markdown, crate);
  if (!table) {
    return [
      `${MAP}:1: there is no map of ${crate}; write a table \`| row | module | what |\` behind ` +
        `a line \`<!-- layers -->\` under a heading with \`${crate}\`.`,
    ];
  }
  const faults = [];
  const names = [...modules.keys()].filter((name) => unit(name));
  const missing = new Set(names);
  let above = 0;
  for (const { row, name, line } of table) {
    if (row < above) {
      faults.push(
        `${MAP}:${line}: the map of ${crate} has \`${name}\` of row ${row} below row ${above}; ` +
          "let the ground come first.",
      );
    }
    above = Math.max(above, row);
    const own = name.replace(/\/mod$/, "");
    const meant = names.filter((module) => {
      if (own !== name) return module === own;
      return rowOf.has(name) ? unit(module) === name : `${module}/`.startsWith(`${name}/`);
    });
    if (meant.length === 0) {
      faults.push(
        `${MAP}:${line}: the map of ${crate} has \`${name}\` in row ${row}, but there is no such ` +
          "module in its rows; take it out, or correct its name.",
      );
    }
    const other = meant.map((module) => rowOf.get(unit(module))).find((number) => number !== row);
    if (other !== undefined) {
      faults.push(
        `${MAP}:${line}: the map of ${crate} has \`${name}\` in row ${row}, ${TABLE} in row ` +
          `${other}; correct the one that is wrong.`,
      );
    }
    const again = meant.find((module) => !missing.has(module));
    if (again !== undefined) {
      faults.push(
        `${MAP}:${line}: the map of ${crate} names \`${again}\` a second time; say once why it ` +
          "changes.",
      );
    }
    for (const module of meant) missing.delete(module);
  }
  const told = new Set();
  for (const module of missing) {
    const whole = names.every((other) => unit(other) !== unit(module) || missing.has(other));
    const name = whole ? unit(module) : module;
    if (told.has(name)) continue;
    told.add(name);
    faults.push(
      `${MAP}:${table[0].line}: the map of ${crate} is without \`${name}\` of row ` +
        `${rowOf.get(unit(module))}; add it with the reason it has to change.`,
    );
  }
  return faults;
}

/** Where in layers.json a name stands, behind its crate's. */
function placeIn(text) {
  return (crate) => (name) => {
    const start = Math.max(0, text.indexOf(JSON.stringify(crate)));
    const found = text.indexOf(JSON.stringify(name), start);
    return `${TABLE}:${text.slice(0, found < 0 ? start : found).split("\n").length}`;
  };
}

/** All that is wrong in a tree, a sentence each, and how much was looked at. */
export function check(root) {
  const text = read(root, TABLE);
  const at = placeIn(text);
  const { long = {}, ...table } = JSON.parse(text);
  const markdown = existsSync(join(root, MAP)) ? read(root, MAP) : "";
  const crates = crateFolders(root);
  const faults = [];
  const found = new Map();
  let modules = 0;
  for (const crate of crates.filter((crate) => !table[crate])) {
    faults.push(
      `${TABLE}:1: there are no rows for ${crate}; add what \`--propose ${crate}\` says.`,
    );
  }
  for (const [crate, entry] of Object.entries(table)) {
    if (!crates.includes(crate)) {
      faults.push(`${at(crate)(crate)}: ${crate} is no member of the workspace; take it out.`);
      continue;
    }
    const sources = readCrate(root, crate);
    const rows = checkRows(sources, entry, at(crate));
    faults.push(...sources.problems, ...rows.faults, ...checkPublicOnly(sources, entry));
    faults.push(...checkDependencies(root, crate, entry, at(crate)));
    faults.push(...checkMap(markdown, sources, rows));
    for (const [key, value] of longFunctions(sources)) found.set(key, value);
    modules += sources.modules.size - 1;
  }
  faults.push(...checkLong(found, long, at("long")));
  return { faults, modules, crates: crates.length };
}

/** A crate's entry as the code is today: each module as low as what it uses lets it be,
 *  modules that use each other in one row; then what ties those. */
export function propose(root, crate, folders = []) {
  const sources = readCrate(root, crate);
  const table = existsSync(join(root, TABLE)) ? JSON.parse(read(root, TABLE)) : {};
  const listed = table[crate]?.rows.flat() ?? [];
  const alone = listed.filter((name) => !listed.some((other) => other.startsWith(`${name}/`)));
  const whole = new Map([...folders, ...alone].map((folder) => [folder, 0]));
  const unit = (module) => module && (unitOf(module, whole) ?? module);
  const arrows = between(sources.arrows, unit).filter(({ from }) => from !== "");
  const nodes = new Set([...sources.modules.keys()].filter(Boolean).map(unit));
  const next = (node) => arrows.filter(({ from }) => from === node).map(({ to }) => to);
  const rowOf = new Map();
  const rows = [], knots = [];
  for (const group of circles([...nodes].sort(), next)) {
    const below = group.flatMap(next).filter((node) => !group.includes(node));
    const row = below.reduce((most, node) => Math.max(most, rowOf.get(node) + 1), 0);
    for (const node of group) rowOf.set(node, row);
    (rows[row] ??= []).push(...group);
    if (group.length > 1) knots.push({ row: row + 1, group: group.sort() });
  }
  const line = (row) => `      ${JSON.stringify(row.sort()).replaceAll('","', '", "')}`;
  const deps = JSON.stringify([...dependencies(read(root, `${crate}/Cargo.toml`)).keys()]);
  const out = [
    `  "${crate}": {`,
    `    "rows": [\n${rows.map((row) => line(row.filter(Boolean))).join(",\n")}\n    ],`,
    `    "deps": ${deps.replaceAll('","', '", "')}`,
    "  },",
  ];
  for (const { row, group } of knots) {
    out.push("", `Row ${row}: ${group.length} modules use each other: ${group.join(", ")}`);
    for (const { from, to, path, file, line: number } of arrows) {
      if (!group.includes(from) || !group.includes(to)) continue;
      out.push(`  ${file}:${number}: ${from} -> ${to} (${path.join("::")})`);
    }
  }
  const toRoot = arrows.filter(({ to }) => to === "");
  if (toRoot.length > 0) out.push("", "These name what stands in the crate's root:");
  for (const { from, path, file, line: number } of toRoot) {
    out.push(`  ${file}:${number}: ${from} -> ${path.join("::")}`);
  }
  const long = [...longFunctions(sources)];
  if (long.length > 0) out.push("", `Functions over ${LONG} lines, for "long":`);
  for (const [key, { lines }] of long) out.push(`    ${JSON.stringify(key)}: ${lines},`);
  return out.join("\n");
}

function main(given) {
  const option = given.indexOf("--root");
  const [, path] = option < 0 ? [] : given.splice(option, 2);
  const root = path ?? dirname(dirname(fileURLToPath(import.meta.url)));
  if (given[0] === "--propose" && given.length > 1) {
    console.log(propose(root, given[1].replace(/\/$/, ""), given.slice(2)));
    return 0;
  }
  if (given.length > 0) {
    console.error("usage: node scripts/layers.mjs [--root DIR] [--propose CRATE [FOLDER...]]");
    return 2;
  }
  const { faults, modules, crates } = check(root);
  for (const fault of faults) console.error(fault);
  if (faults.length > 0) {
    console.error(`layers: ${faults.length} to mend; ${TABLE} has the rows`);
    return 1;
  }
  console.log(`layers: ${modules} modules in ${crates} crates, no arrow points up`);
  return 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.exitCode = main(process.argv.slice(2));
}
