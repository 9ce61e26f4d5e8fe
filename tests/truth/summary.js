// The table at a run's end, in Markdown.

const n = (number) => `${number}`.replace(/\B(?=(\d{3})+$)/g, " ");
const WORDS = {
  online: "a user's first socket",
  closed: "a user's last socket was closed",
  hung: "it went silent",
  killed: "its node was killed",
};
/** What may be otherwise than usual, each with a row of its own. */
const WAYS = [
  ["with Sentinels", ({ topology }) => topology === "sentinel"],
  ["on a Redis Cluster", ({ topology }) => topology === "cluster"],
  ["`presence.announce = \"rooms\"`", ({ announce }) => announce === "rooms"],
  ["two builds", ({ hasBuilds }) => hasBuilds],
];
const row = (cells) => `| ${cells.join(" | ")} |`;

/** A row for each kind of fault and each way, of the rounds that it was in, and one for all. */
export function table(rounds, kinds) {
  const line = (title, some, count) => {
    const sum = (what) => some.reduce((all, one) => all + one.counts[what], 0);
    const violations = some.reduce((all, one) => all + one.violations.length, 0);
    return row([
      title,
      n(some.length),
      n(count),
      n(sum("sockets")),
      ...["edges", "answers", "changes", "pictures", "pairs"].map((what) => n(sum(what))),
      n(some.reduce((all, one) => all + one.excused, 0)),
      `**${n(violations)}**`,
    ]);
  };
  const head = [
    "",
    "rounds",
    "times",
    "sockets",
    "edges",
    "answers",
    "changes",
    "pictures",
    "pairs",
    "excused",
    "**violations**",
  ];
  const lines = Object.entries(kinds).flatMap(([kind, { title }]) => {
    const some = rounds.filter(({ done }) => done[kind]);
    const count = some.reduce((all, { done }) => all + done[kind], 0);
    return count > 0 ? [line(title, some, count)] : [];
  });
  const done = (some) => some.reduce((sum, { faults }) => sum + faults.length, 0);
  for (const [title, is] of WAYS) {
    const some = rounds.filter(is);
    if (some.length > 0) lines.push(line(title, some, done(some)));
  }
  const rules = new Map();
  for (const { violations } of rounds)
    for (const { rule } of violations) rules.set(rule, (rules.get(rule) ?? 0) + 1);
  const broken = [...rules].map(([rule, count]) => `${count} ${rule}`).join(", ");
  const took = Object.entries(WORDS).flatMap(([kind, title]) => {
    const times = rounds.flatMap(({ latencies }) => latencies[kind]).sort((a, b) => a - b);
    const part = (share) => n(times[Math.min(times.length - 1, Math.floor(share * times.length))]);
    return times.length > 0 ? [row([title, n(times.length), part(0.5), part(0.99), part(1)])] : [];
  });
  return [
    row(head),
    row(head.map((_, index) => (index === 0 ? "---" : "---:"))),
    ...lines,
    line("all", rounds, done(rounds)),
    "",
    row(["known in pictures after", "times", "half, ms", "99 %, ms", "all, ms"]),
    row(["---", "---:", "---:", "---:", "---:"]),
    ...took,
    ...(broken ? ["", `violations by rule: ${broken}`] : []),
  ].join("\n");
}
