// Reads the two tables beside the code that have to agree with it: what a Cargo.toml
// depends on, and the map of a crate in ARCHITECTURE.md.

/** A TOML file's `key = value` lines with the section they stand in, values over
 *  several lines taken together, comments left out. */
function entries(toml) {
  const found = [];
  let section = "", open = 0, current;
  toml.split("\n").forEach((text, index) => {
    const bare = text
      .replace(/("(?:[^"\\]|\\.)*"|'[^']*')|#.*/g, (_, string) => string ?? "")
      .trim();
    const header = open === 0 && bare.match(/^\[+\s*(.+?)\s*\]+$/);
    if (header) {
      section = header[1];
      found.push({ section, line: index + 1 });
    } else if (open > 0) {
      current.value += ` ${bare}`;
    } else if (bare.includes("=")) {
      const [, key, value] = bare.match(/^\s*("[^"]*"|'[^']*'|[\w-]+)[^=]*=(.*)$/) ?? [];
      current = { section, key: key?.replace(/["']/g, ""), value: value ?? "", line: index + 1 };
      found.push(current);
    }
    const signs = bare.replace(/"(?:[^"\\]|\\.)*"|'[^']*'/g, "");
    if (!header) open += signs.split(/[[{]/).length - signs.split(/[\]}]/).length;
  });
  return found;
}

/** The packages that a crate depends on outside its tests: name to line. */
export function dependencies(toml) {
  const found = new Map();
  for (const { section, key, value, line } of entries(toml)) {
    const match = section.match(/^(?:target\..+\.)?dependencies(?:\.(.+))?$/);
    if (!match) continue;
    const single = match[1]?.replace(/["']/g, "");
    // A renamed one counts by the name of its package.
    if (!single && key) {
      found.set(value.match(/\bpackage\s*=\s*["']([^"']+)/)?.[1] ?? key, line);
    } else if (single && key === "package") {
      found.delete(single);
      found.set(value.replace(/["'\s]/g, ""), line);
    } else if (single && !key) {
      found.set(single, line);
    }
  }
  return found;
}

/** The folders that a workspace's Cargo.toml names as members. */
export function members(toml) {
  const entry = entries(toml).find(
    ({ section, key }) => section === "workspace" && key === "members",
  );
  return [...(entry?.value ?? "").matchAll(/["']([^"']+)["']/g)].map(([, path]) => path);
}

/** `a, b/{c,d}` in backquotes as `a`, `b/c`, `b/d`. */
function names(cell) {
  return [...cell.matchAll(/`([^`]+)`/g)].flatMap(([, text]) => {
    const [, head, inner, tail] = text.match(/^([^{]*)\{([^}]*)\}(.*)$/) ?? [];
    return inner === undefined ? [text] : inner.split(",").map((part) => head + part.trim() + tail);
  });
}

/** A crate's map in ARCHITECTURE.md: the table behind `<!-- layers -->` under the heading
 *  that names the crate, as {row, name, line}; nothing if there is none. */
export function map(markdown, crate) {
  const lines = markdown.split("\n");
  const heading = lines.findIndex(
    (line) => /^#+\s/.test(line) && line.replace(/[`*]/g, " ").split(/\s+/).includes(crate),
  );
  if (heading < 0) return;
  let at = heading + 1;
  while (at < lines.length && !/^(#+\s|<!--\s*layers\s*-->)/.test(lines[at])) at++;
  if (!lines[at]?.startsWith("<!--")) return;
  const found = [];
  for (at++; lines[at] === ""; at++);
  for (; lines[at]?.startsWith("|"); at++) {
    const [, row, module] = lines[at].split("|").map((cell) => cell.trim());
    if (!/^\d+$/.test(row)) continue;
    for (const name of names(module ?? "")) found.push({ row: Number(row), name, line: at + 1 });
  }
  return found.length > 0 ? found : undefined;
}
