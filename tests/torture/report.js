// What a run says: a table in Markdown, and a file with the history of a red phase.
import { mkdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FOLDER = fileURLToPath(new URL("../../target/torture/", import.meta.url));
/** Lines that are kept of a phase's history; of more, the newest. */
const MOST = 20_000;

/** What was done, with its time in milliseconds from the beginning. */
export class History {
  lines = [];
  /** What is said at the end of a red phase, each with its detail. */
  last = () => [];
  #begun = Date.now();

  add(what, detail = {}) {
    this.lines.push({ at: Date.now() - this.#begun, what, ...detail });
    if (this.lines.length > 2 * MOST) this.lines.splice(0, MOST);
  }

  /** The file that it is written to. */
  write(phase, result) {
    for (const [what, detail] of this.last()) this.add(what, detail);
    mkdirSync(FOLDER, { recursive: true });
    const path = `${FOLDER}${phase}-${new Date().toISOString().replaceAll(":", "")}.json`;
    writeFileSync(path, JSON.stringify({ phase, ...result, history: this.lines }, null, 1));
    return path;
  }
}

const n = (number) => `${number}`.replace(/\B(?=(\d{3})+$)/g, " ");
const words = (counts) =>
  Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([what, count]) => `${n(count)} ${what}`)
    .join(", ");

const share = ({ recovered, refused }) => {
  const all = recovered + refused;
  return all === 0 ? "–" : `${((100 * recovered) / all).toFixed(2)} %`;
};
const why = ({ outcomes, refused }) => {
  const { recovered, ...rest } = outcomes ?? {};
  return `${n(refused)}${Object.values(rest).some(Boolean) ? ` (${words(rest)})` : ""}`;
};

const row = (cells) => `| ${cells.join(" | ")} |`;
const table = (head, rows) =>
  [row(head), row(head.map((_, index) => (index === 0 ? "---" : "---:"))), ...rows.map(row)].join(
    "\n",
  );

/** Tables of all phases that were run. */
export function tables(results) {
  const rooms = results.filter(({ kind }) => kind === "rooms");
  const store = results.filter(({ kind }) => kind === "store");
  const parts = [];
  if (rooms.length > 0) {
    parts.push(
      table(
        [
          "",
          "clients",
          "published",
          "heard",
          "cuts",
          "and",
          "came back whole",
          "began afresh",
          "missed, and were told",
          "**missed silently**",
          "**twice**",
          "**out of order**",
        ],
        rooms.map((one) => [
          one.title,
          n(one.clients),
          n(one.said),
          n(one.heard),
          n(one.cuts),
          words(one.done) || "–",
          `${n(one.recovered)} (${share(one)})`,
          why(one),
          `${n(one.told)}${one.toldLate ? ` (${n(one.toldLate)} late)` : ""}`,
          `**${n(one.gaps)}**`,
          `**${n(one.duplicates)}**`,
          `**${n(one.inversions)}**`,
        ]),
      ),
    );
  }
  if (store.length > 0) {
    parts.push(
      table(
        [
          "",
          "done to it",
          "acknowledged",
          "sent",
          "answered otherwise",
          "**lost, doubled or displaced**",
          "readers: heard",
          "came back whole",
          "**missed, twice, out of order**",
        ],
        store.map((one) => [
          one.title,
          words(one.done),
          n(one.acknowledged),
          n(one.sent),
          words(one.answered) || "–",
          `**${one.faults.filter((fault) => !fault.startsWith("reader")).length}**`,
          n(one.heard),
          `${n(one.recovered)} (${share(one)})`,
          `**${n(one.gaps)}, ${n(one.duplicates)}, ${n(one.inversions)}**`,
        ]),
      ),
    );
  }
  return parts.join("\n\n");
}
