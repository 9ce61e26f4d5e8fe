// Spans of time, `[from, to)` each: lists of them are sorted, and none touches the next.

/** All that is in any of them. */
export function union(spans) {
  const sorted = spans.filter(([from, to]) => to > from).sort((a, b) => a[0] - b[0]);
  const all = [];
  for (const [from, to] of sorted) {
    const last = all.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else all.push([from, to]);
  }
  return all;
}

/** What is in both. */
export function common(some, others) {
  const all = [];
  for (let i = 0, k = 0; i < some.length && k < others.length;) {
    const from = Math.max(some[i][0], others[k][0]);
    const to = Math.min(some[i][1], others[k][1]);
    if (from < to) all.push([from, to]);
    if (some[i][1] < others[k][1]) i++;
    else k++;
  }
  return all;
}

/** What is in none. */
export function outside(spans) {
  const all = [];
  let from = -Infinity;
  for (const [begin, end] of spans) {
    if (from < begin) all.push([from, begin]);
    from = end;
  }
  if (from < Infinity) all.push([from, Infinity]);
  return all;
}

export const without = (some, others) => common(some, outside(others));
export const covers = (spans, from, to) => without([[from, to]], spans).length === 0;
export const touches = (spans, from, to) => common(spans, [[from, to]]).length > 0;
