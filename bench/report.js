// RESULTS.md and its plots, from the medians.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { BINARY, PEERS } from "./peers.js";

const number = (value, unit) => {
  if (value === undefined) return "";
  const digits = Number.isInteger(value) || Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return `${value.toFixed(digits).replace(/\B(?=(\d{3})+$)/g, " ")}${unit === "B" || unit === "/s" ? "" : ` ${unit}`}`;
};

const output = (command, ...args) => {
  try {
    return execFileSync(command, args, { encoding: "utf8" }).trim().split("\n")[0];
  } catch {
    return "not found";
  }
};

function versions() {
  const read = (path) => JSON.parse(readFileSync(new URL(path, import.meta.url), "utf8"));
  const crate = (peer, name) => {
    const lock = readFileSync(new URL(`peers/${peer}/Cargo.lock`, import.meta.url), "utf8");
    return lock.match(`name = "${name}"\nversion = "([^"]+)"`)?.[1];
  };
  const own = output(BINARY, "--version").replace("heartline ", "");
  const uws = crate("uws", "libuwebsockets-sys");
  return {
    "Heartline": `${own}, commit ${output("git", "rev-parse", "--short", "HEAD")}`,
    "Bun": read("peers/bun/package.json").dependencies.bun,
    "Socket.IO": `${read("peers/node/package.json").dependencies["socket.io"]} on Node ${process.version}`,
    "socketioxide": crate("socketioxide", "socketioxide"),
    "uWebSockets": `as libuwebsockets-sys ${uws} brings it, ${output("c++", "--version")}`,
    "rustc": output("rustc", "--version"),
    "kernel": release(),
    "machine": `${cpus().length} × ${cpus()[0]?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GB`,
  };
}

const table = (head, rows) =>
  [head, head.map((_, index) => (index ? "---:" : "---")), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");

const COLORS = {
  live: "#0b6e4f",
  socketio: "#2f9e6e",
  bunLive: "#8d6a9f",
  bun: "#b79cc4",
  uws: "#5b7db1",
  node: "#c0504d",
  socketioxide: "#d98e3f",
  bare: "#8a8a8a",
};

/** Bars of each figure, as shares of the longest. */
function bars(figures, m) {
  const lines = [];
  let y = 10;
  for (const figure of figures) {
    const values = figure.peers.map((key) => [key, m(figure.key, key)]).filter(([, value]) => value !== undefined);
    const longest = Math.max(...values.map(([, value]) => value), 1e-9);
    lines.push(`<text x="10" y="${(y += 16)}" class="title">${figure.title} (${figure.better} is better)</text>`);
    for (const [key, value] of values) {
      y += 18;
      const width = Math.max(1, (value / longest) * 480);
      lines.push(
        `<text x="168" y="${y}" class="name">${PEERS[key].name}</text>`,
        `<rect x="176" y="${y - 11}" width="${width.toFixed(1)}" height="13" fill="${COLORS[key]}"/>`,
        `<text x="${(184 + width).toFixed(1)}" y="${y}">${number(value, figure.unit)}</text>`,
      );
    }
    y += 16;
  }
  return svg(760, y + 10, lines);
}

/** Whose growth is measured. */
export const growthPeers = (figure) => ["live", "socketio", ...(figure.limit ? ["bare"] : [])];

/** A figure's growth: logarithmic across, from zero up. */
function curves(growth, m) {
  const lines = [];
  growth.forEach((figure, index) => {
    const left = 60 + index * 330, top = 40, width = 210, height = 150;
    const xs = figure.points.map(({ x }) => x);
    const read = (key) => xs.map((x) => [x, m(figure.key, `${key} ${x}`)]).filter(([, value]) => value !== undefined);
    const series = Object.fromEntries(growthPeers(figure).map((key) => [key, read(key)]));
    const most = Math.max(...Object.values(series).flat().map(([, value]) => value), 1e-9) * 1.15;
    const px = (x) => left + (Math.log(x / xs[0]) / Math.log(xs.at(-1) / xs[0])) * width;
    const py = (value) => top + height - (Math.max(0, value) / most) * height;
    lines.push(`<text x="${left - 40}" y="20" class="title">${figure.title}</text>`);
    lines.push(`<path d="M${left} ${top}V${top + height}H${left + width}" class="axis"/>`);
    for (const x of xs) lines.push(`<text x="${px(x)}" y="${top + height + 16}" class="tick">${number(x, "B")}</text>`);
    lines.push(`<text x="${left + width / 2}" y="${top + height + 32}" class="tick">${figure.x}</text>`);
    for (const share of [0.5, 1]) {
      const value = (most / 1.15) * share;
      lines.push(`<text x="${left - 4}" y="${py(value) + 4}" class="name">${number(value, figure.unit)}</text>`);
    }
    for (const [key, points] of Object.entries(series)) {
      const color = COLORS[key];
      const places = points.map(([x, value]) => [px(x).toFixed(1), py(value).toFixed(1)]);
      lines.push(
        `<polyline points="${places.join(" ")}" fill="none" stroke="${color}" stroke-width="2"/>`,
        ...places.map(([x, y]) => `<circle cx="${x}" cy="${y}" r="3" fill="${color}"/>`),
      );
    }
  });
  ["live", "socketio", "bare"].forEach((key, index) => {
    const left = 20 + index * 170;
    const mark = `<rect x="${left}" y="236" width="12" height="12" fill="${COLORS[key]}"/>`;
    lines.push(`${mark}<text x="${left + 18}" y="246">${PEERS[key].name}</text>`);
  });
  return svg(30 + growth.length * 330, 260, lines);
}

const svg = (width, height, lines) =>
  `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" \
font-family="system-ui, sans-serif" font-size="12" fill="#222">
<style>.title{font-weight:600}.name{text-anchor:end}.tick{text-anchor:middle}.axis{fill:none;stroke:#999}</style>
<rect width="100%" height="100%" fill="#fff"/>
${lines.join("\n")}
</svg>
`;

/** The three figures of the README, beside each other. */
export function headline(m) {
  const panels = [
    ["memory", "bytes per idle connection", "less is better"],
    ["broadcast1k", "deliveries/s, a room of 1 000", "more is better"],
    ["echo8", "acknowledged events/s", "more is better"],
  ];
  const peers = ["live", "socketio", "bunLive", "node", "socketioxide"];
  const lines = panels.flatMap(([key, title, better], panel) => {
    const left = 152 + panel * 236;
    const longest = Math.max(...peers.map((peer) => m(key, peer) ?? 0), 1e-9);
    const bars = peers.flatMap((peer, row) => {
      const value = m(key, peer);
      if (value === undefined) return [];
      const [y, width] = [64 + row * 22, Math.max(2, (value / longest) * 150)];
      return [
        `<rect x="${left}" y="${y - 11}" width="${width.toFixed(1)}" height="14" rx="2" fill="${COLORS[peer]}"/>`,
        `<text x="${(left + width + 6).toFixed(1)}" y="${y}">${number(value, "B")}</text>`,
      ];
    });
    return [
      `<text x="${left}" y="24" class="title">${title}</text>`,
      `<text x="${left}" y="40" fill="#666">${better}</text>`,
      ...bars,
    ];
  });
  const names = peers.map((peer, row) => `<text x="144" y="${64 + row * 22}" class="name">${PEERS[peer].name}</text>`);
  return svg(860, 170, [...names, ...lines]);
}

/** What people wrote, kept beside the results: of budgets that are not reached, and of resuming. */
function written(file) {
  const path = new URL(file, import.meta.url);
  return existsSync(path) ? readFileSync(path, "utf8").replace(/^# .*\n+/, "") : "";
}

/** What the steps cost that every server is made of, from the first round to the last. */
const calibrated = (calibrations) =>
  [
    ["system_call_us", "the smallest system call"],
    ["write_us", "a write of 128 B to a connection"],
    ["read_us", "a read of it"],
  ].map(([key, what]) => [what, `${calibrations.map((one) => one[key].toFixed(2)).join(" · ")} µs`]);

export async function document(measured) {
  const { figures, growth, budgets, m, c, reports, calibrations, remarks, rounds, quick, minutes } = measured;
  const shown = Object.keys(PEERS);
  const rows = figures.flatMap((figure) => {
    const cell = (key, read, unit) =>
      figure.peers.includes(key) ? number(read(figure.key, key), unit) : "";
    const row = (title, read, unit) => [title, ...shown.map((key) => cell(key, read, unit))];
    const also = figure.also ? [row("— CPU seconds per million", c, "s")] : [];
    return [row(figure.title, m, figure.unit), ...also];
  });
  const spread = (figure, key) => {
    const values = (reports[figure.key]?.[key] ?? []).map(figure.value).filter(Number.isFinite);
    const range = Math.max(...values) - Math.min(...values);
    return values.length > 1 ? Math.round((range / m(figure.key, key)) * 100) : 0;
  };
  const spreads = figures.flatMap((figure) => figure.peers.map((key) => spread(figure, key)));
  const widest = Math.max(0, ...spreads.filter(Number.isFinite));
  const kept = budgets.map(({ what, budget, value, reached }) => {
    const verdict = reached ? "reached" : "**not reached**";
    return [what, budget, value.toFixed(value >= 100 ? 0 : 2), verdict];
  });
  const grown = growth.map((figure) => {
    const head = [figure.title, ...figure.points.map(({ x }) => `${number(x, "B")} ${figure.x}`)];
    const at = (key, x) => number(m(figure.key, `${key} ${x}`), figure.unit);
    const lines = growthPeers(figure).map((key) => {
      return [PEERS[key].name, ...figure.points.map(({ x }) => at(key, x))];
    });
    return table(head, lines);
  });
  const day = new Date().toISOString().slice(0, 10);
  const all = [...new Set(remarks)].map((remark) => `- ${remark}`).join("\n");
  const markdown = `# Results

${quick ? "A smoke run: small and once, so nothing here is a claim.\n\n" : ""}\
Written by \`make bench\` on ${day} in ${Math.round(minutes)} minutes.
Medians of ${rounds} interleaved ${rounds === 1 ? "round" : "rounds"}; the server had one processor and the client the \
other. The
machine is shared and noisy (within one figure the rounds differed by up to ${widest} %): \
read the ratios, not the numbers.

${table(["", ""], [...Object.entries(versions()), ...calibrated(calibrations)])}

${quick ? "" : `## Budgets

${table(["budget", "", "measured", ""], kept)}

${written("FINDINGS.md")}`}
## All figures

${table(["", ...shown.map((key) => PEERS[key].name)], rows)}

![All figures as bars](results.svg)

## Growth

![Memory and cost per delivery as connections and rooms grow](growth.svg)

${grown.join("\n\n")}

## Coming back, and keeping

${written("RESUMING.md")}
## While a node goes

${written("LEAVING.md")}
## What was run

Every server answers the same events: \`echo\` with its argument, \`join\`, \`publish\`. Heartline runs as shipped, with
heartbeats, registry, presence and metrics, and checks a token on every connection where the table says so; its rate
limits and presence announcements are off, since no peer has any. Acknowledged events run against
[examples/echo.rs](../examples/echo.rs). "Plain frames" and the bare loop do no protocol at all: they give a frame
back, or write it to everybody. The loop parses nothing, checks nothing and knows nobody; nothing can be faster here.
The load is \`heartline load\`, and [figures.js](figures.js) says what each figure asks of it.
${remarks.length > 0 ? `\nRemarks of the run:\n\n${all}\n` : ""}`;
  const plots = {
    "headline.svg": headline(m),
    "results.svg": bars(figures, m),
    "growth.svg": curves(growth, m),
  };
  return { markdown, plots };
}
