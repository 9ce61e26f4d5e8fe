import { HeartlineError } from "./types.js";

/** Values that JSON carries whole. */
const WHOLE = /^(Object|Array|String|Number|Boolean|Null|Undefined)$/;

const invalid = (message: string) => new HeartlineError("INVALID_DATA", message);

/** Gives each part of a value to `JSON.stringify`, and throws for those that it would not carry. */
export function whole(this: any, key: string, value: unknown): unknown {
  // What is given to this function, a date has turned into a text already.
  const own = this[key];
  const type = ({}).toString.call(own).slice(8, -1);
  const isLost =
    own === undefined ? Array.isArray(this) : typeof own === "number" && own - own !== 0;
  if (isLost || own?.toJSON || !WHOLE.test(type)) throw invalid(`JSON loses ${type} at "${key}"`);
  return value;
}

/**
 * A value as JSON. Throws `INVALID_DATA` for what JSON would drop or change: binary data, dates,
 * maps, functions, numbers that are not finite, and whatever has a JSON of its own. A member of an
 * object that is undefined is one that is not there.
 */
export function encode(data: unknown, each = whole): string {
  try {
    return JSON.stringify(data, each);
  } catch (error) {
    // A circle, or a number that is too big for it.
    throw error instanceof HeartlineError ? error : invalid((error as Error).message);
  }
}

/** Bytes of a text in UTF-8. */
const bytes = (text: string): number => new TextEncoder().encode(text).length;

/** The bytes of a text in UTF-8, and `more` of them. Throws `TOO_LARGE` for too many. */
export function measure(text: string, most: number, more = 0): number {
  const size = bytes(text) + more;
  if (size > most) throw new HeartlineError("TOO_LARGE", `${size} bytes of at most ${most}`);
  return size;
}
