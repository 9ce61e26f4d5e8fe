// Reads a crate's sources as far as its layers need it: which modules there are, which
// of them names which, how long the functions are. It sees words, not types: a method
// that is called on a value is not a path, so no arrow.
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const SPACE = /\s+|\/\/[^\n]*/y;
const TOKEN = new RegExp(
  [
    String.raw`(?<string>[bc]?"(?:[^"\\]|\\.)*")`,
    String.raw`(?<char>b?'(?:\\(?:u\{[^}]*\}|.)[^']*|[^'\\])')`,
    String.raw`(?<lifetime>'[\p{L}_][\p{L}\p{N}_]*)`,
    String.raw`(?:r#)?(?<word>[\p{L}_][\p{L}\p{N}_]*)`,
    String.raw`(?<number>\p{N}[\p{L}\p{N}_]*)`,
    String.raw`(?<sign>::|.)`,
  ].join("|"),
  "suy",
);
const RAW = /[bc]?r(#*)"/y;
const OPEN = new Set(["(", "[", "{"]);
const CLOSE = new Set([")", "]", "}"]);

/** The words and signs of a source with their lines; without comments, strings and
 *  character literals. */
function tokens(source) {
  const found = [];
  let at = 0, line = 1;
  const advance = (to) => {
    for (let next = source.indexOf("\n", at); next >= 0 && next < to;) {
      line++;
      next = source.indexOf("\n", next + 1);
    }
    at = to;
  };
  while (at < source.length) {
    SPACE.lastIndex = RAW.lastIndex = TOKEN.lastIndex = at;
    if (SPACE.test(source)) {
      advance(SPACE.lastIndex);
    } else if (source.startsWith("/*", at)) {
      advance(commentEnd(source, at));
    } else if (RAW.test(source)) {
      const end = `"${"#".repeat(source.slice(at, RAW.lastIndex).split("#").length - 1)}`;
      const close = source.indexOf(end, RAW.lastIndex);
      advance(close < 0 ? source.length : close + end.length);
    } else {
      const { groups } = TOKEN.exec(source);
      const text = groups.word ?? groups.number ?? groups.sign;
      if (text !== undefined) found.push({ text, line, word: groups.word !== undefined });
      advance(TOKEN.lastIndex);
    }
  }
  return found;
}

/** Where a comment that may hold others ends. */
function commentEnd(source, start) {
  const edge = /\/\*|\*\//g;
  edge.lastIndex = start;
  let depth = 0;
  for (let found; (found = edge.exec(source));) {
    depth += found[0] === "/*" ? 1 : -1;
    if (depth === 0) return edge.lastIndex;
  }
  return source.length;
}

/** The index behind the bracket that closes the one at `open`. */
function closed(list, open) {
  let depth = 0;
  for (let at = open; at < list.length; at++) {
    if (OPEN.has(list[at].text)) depth++;
    if (CLOSE.has(list[at].text) && --depth === 0) return at + 1;
  }
  return list.length;
}

const STATEMENTS = new Set(["use", "const", "static", "type", "let"]);
const ITEMS = new Set([
  "fn", "mod", "impl", "struct", "enum", "union", "trait", "unsafe", "async", "extern",
  "macro_rules", ...STATEMENTS,
]);

/** The index behind what an attribute in front of `start` stands for: an item, a field,
 *  a variant, an arm or a statement. */
function itemEnd(list, start) {
  let at = start;
  while (list[at]?.text === "#") at = closed(list, at + 1);
  if (list[at]?.text === "pub") at = list[at + 1]?.text === "(" ? closed(list, at + 1) : at + 1;
  const first = list[at]?.text;
  const isItem = ITEMS.has(first);
  const isStatement = STATEMENTS.has(first) && list[at + 1]?.text !== "fn";
  while (at < list.length) {
    const { text } = list[at];
    if (text === ";") return at + 1;
    if (text === "," && !isItem) return at + 1;
    if (CLOSE.has(text)) return at;
    if (OPEN.has(text)) {
      at = closed(list, at);
      if (text === "{" && !isStatement) return at;
    } else {
      at++;
    }
  }
  return at;
}

const FOR_TESTS = /^(?:cfg\((?:test|all\((?:.*,)?test(?:,.*)?\))\)|(?:\w+::)*test(?:\(.*\))?)$/;

/** What is compiled outside tests; `null` when nothing of the file is. */
function withoutTests(list) {
  const kept = [];
  for (let at = 0; at < list.length;) {
    const inner = list[at + 1]?.text === "!" ? 1 : 0;
    if (list[at].text !== "#" || list[at + 1 + inner]?.text !== "[") {
      kept.push(list[at++]);
      continue;
    }
    const end = closed(list, at + 1 + inner);
    const attribute = list.slice(at + 2 + inner, end - 1).map((token) => token.text).join("");
    if (!FOR_TESTS.test(attribute)) kept.push(...list.slice(at, end));
    else if (inner) return null;
    at = FOR_TESTS.test(attribute) ? itemEnd(list, end) : end;
  }
  return kept;
}

/** The paths of a `use` tree that begins at `at`, and the index behind it. */
function useTree(list, at, prefix = []) {
  const path = [...prefix];
  const line = list[at]?.line;
  const leaves = [];
  for (;;) {
    const { text, word } = list[at] ?? { text: ";" };
    if (text === "{") {
      const end = closed(list, at) - 1;
      for (at++; at < end;) {
        const branch = useTree(list, at, path);
        leaves.push(...branch.leaves);
        at = list[branch.at]?.text === "," ? branch.at + 1 : Math.max(branch.at, at + 1);
      }
      return { leaves, at: end + 1 };
    }
    if (text === "::" && path.length === 0) path.push("::");
    else if (text === "*" || (word && text !== "as")) path.push(text);
    else if (text !== "::" && text !== "$") break;
    at++;
  }
  if (path.length > 1 && path.at(-1) === "self") path.pop();
  let name = path.at(-1);
  if (list[at]?.text === "as") {
    name = list[at + 1].text;
    at += 2;
  }
  leaves.push({ path, name, line });
  return { leaves, at };
}

/** What one file's tokens say, in modules of its own as well:
 *  `uses` {path, name, line, scope, isPublic}, `paths` {path, line, scope}, `modules`
 *  {name, line, scope, hasFile}, `publics` (names of public items at its top),
 *  `fields` {name, line} and `functions` {name, line, lines}. */
function read(list) {
  const said = { uses: [], paths: [], modules: [], publics: new Set(), fields: [], functions: [] };
  const scope = [];
  let depth = 0;
  for (let at = 0; at < list.length;) {
    const { text, line, word } = list[at];
    const [next, before] = [list[at + 1], list[at - 1]?.text];
    if (text === "{") depth++;
    if (text === "}") {
      depth--;
      if (scope.at(-1)?.depth === depth) scope.pop();
    }
    const where = () => scope.map(({ name }) => name);
    if (text === "use" && next?.text !== "<") {
      const tree = useTree(list, at + 1);
      const isPublic = before === "pub";
      for (const leaf of tree.leaves) {
        said.uses.push({ ...leaf, scope: where(), isPublic });
        if (isPublic && scope.length === 0) said.publics.add(leaf.name);
      }
      at = tree.at;
      continue;
    }
    if (text === "mod" && next?.word && [";", "{"].includes(list[at + 2]?.text)) {
      const hasFile = list[at + 2].text === ";";
      said.modules.push({ name: next.text, line, scope: where(), hasFile });
      if (!hasFile) scope.push({ name: next.text, depth });
    }
    if (text === "pub" && depth === 0 && !["(", "use"].includes(next?.text)) {
      const name = list.slice(at + 1, at + 6).find((token) => token.word && !ITEMS.has(token.text));
      if (name) said.publics.add(name.text);
    }
    if (text === "fn" && next?.word) {
      const end = functionEnd(list, at + 2);
      if (end) said.functions.push({ name: next.text, line, lines: end.line - line + 1 });
    }
    if (text === "." && next?.word) said.fields.push({ name: next.text, line: next.line });
    if (word && next?.text === "::" && before !== "::") {
      const path = [text];
      const isVisibility = before === "in" && list[at - 2]?.text === "(";
      for (at++; list[at]?.text === "::" && list[at + 1]?.word; at += 2) {
        path.push(list[at + 1].text);
      }
      if (!isVisibility) said.paths.push({ path, line, scope: where() });
      continue;
    }
    at++;
  }
  return said;
}

/** The closing brace of a function's body; nothing if it has none. */
function functionEnd(list, at) {
  while (at < list.length && list[at].text !== ";") {
    if (list[at].text === "{") return list[closed(list, at) - 1];
    at = OPEN.has(list[at].text) ? closed(list, at) : at + 1;
  }
}

/** The crate in the folder `crate` of `root`.
 *
 *  `modules`: name (`shard/wheel`, "" for lib.rs and main.rs) to {name, file, said};
 *  `arrows`: {from, to, path, file, line} between modules, each said once a line; `path`
 *  is the path from the crate's root, `to` nothing if that is an item of another crate.
 *  Files of tests alone are in neither.
 *  `problems` are sentences about sources that this cannot follow. */
export function readCrate(root, crate) {
  const modules = new Map();
  const problems = [];
  // A module written inside of a file, by its own name: the module whose file it is.
  const inside = new Map();

  const visit = (name, file, folder) => {
    const list = withoutTests(tokens(readFileSync(join(root, file), "utf8")));
    if (!list) return;
    const said = read(list);
    // The roots of a crate with a library and a binary are taken together.
    const known = modules.get(name);
    if (known) {
      known.files.push({ file, said });
    } else {
      modules.set(name, { name, files: [{ file, said }] });
    }
    for (const child of said.modules) {
      const path = [name, ...child.scope, child.name].filter(Boolean).join("/");
      const below = [folder, ...child.scope, child.name].join("/");
      if (!child.hasFile) {
        inside.set(path, name);
        continue;
      }
      const candidates = [`${below}.rs`, `${below}/mod.rs`];
      const found = candidates.find((path) => existsSync(join(root, path)));
      if (found) visit(path, found, below);
      else problems.push(`${file}:${child.line}: there is no file for \`mod ${child.name}\`.`);
    }
  };
  const top = `${crate}/src`;
  const binaries = existsSync(join(root, top, "bin")) ? readdirSync(join(root, top, "bin")) : [];
  for (const file of ["lib.rs", "main.rs", ...binaries.map((name) => `bin/${name}`)]) {
    if (file.endsWith(".rs") && existsSync(join(root, top, file))) visit("", `${top}/${file}`, top);
  }
  if (!modules.has("")) problems.push(`${crate} has neither src/lib.rs nor src/main.rs.`);

  const { resolve, aliases } = resolver(modules, inside);
  const arrows = [];
  for (const { name, files } of modules.values()) {
    for (const { file, said } of files) {
      const lines = new Set();
      const known = aliases(name, said.uses);
      for (const { path, line, scope } of [...said.uses, ...said.paths]) {
        const found = resolve([name, ...scope].filter(Boolean).join("/"), path, known);
        if (!found || found.to === name) continue;
        const key = `${line} ${found.to} ${found.path[0]}`;
        if (!lines.has(key)) arrows.push({ from: name, ...found, file, line });
        lines.add(key);
      }
    }
  }
  return { crate, modules, arrows, problems, exports: exported(modules) };
}

/** The names that a crate's root makes public. */
function exported(modules) {
  return new Set((modules.get("")?.files ?? []).flatMap(({ said }) => [...said.publics]));
}

/** Finds out which module of the crate a path means. */
function resolver(modules, inside) {
  const exists = (name) => modules.has(name) || inside.has(name);
  const parts = (name) => (name === "" ? [] : name.split("/"));

  /** A path as one from the crate's root; nothing for one into another crate. */
  const absolute = (scope, [first, ...rest], known) => {
    if (first === "crate") return rest;
    if (first === "self") return [...parts(scope), ...rest];
    if (first === "super") {
      const above = parts(scope).slice(0, -1);
      return rest[0] === "super" ? absolute(above.join("/"), rest, known) : [...above, ...rest];
    }
    if (exists([...parts(scope), first].join("/"))) return [...parts(scope), first, ...rest];
    if (known?.has(first)) return [...known.get(first), ...rest];
  };

  /** The deepest module that the path goes through, as the one whose file it is in. */
  const deepest = (path) => {
    let name = "";
    for (const part of path) {
      const below = name ? `${name}/${part}` : part;
      if (!exists(below)) break;
      name = below;
    }
    while (inside.has(name)) name = inside.get(name);
    return name;
  };

  // What the root exports of its modules is theirs; of other crates, nobody's here.
  const rootUses = (modules.get("")?.files ?? []).flatMap(({ said }) => said.uses);
  const resolve = (scope, path, known, hops = 0) => {
    const found = absolute(scope, path, known);
    if (!found) return;
    const to = deepest(found);
    const passedOn = rootUses.find((use) => use.scope.length === 0 && use.name === found[0]);
    if (to !== "" || !passedOn || hops > 4) return { to, path: found };
    return { to: resolve("", passedOn.path, undefined, hops + 1)?.to, path: found };
  };

  /** The modules that a file has brought in under a name of their own. */
  const aliases = (name, uses) => {
    const known = new Map();
    for (let before = -1; before !== known.size;) {
      before = known.size;
      for (const use of uses) {
        const path = absolute([name, ...use.scope].filter(Boolean).join("/"), use.path, known);
        if (path && exists(path.join("/"))) known.set(use.name, path);
      }
    }
    return known;
  };
  return { resolve, aliases };
}
