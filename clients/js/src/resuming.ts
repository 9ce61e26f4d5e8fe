// Going on over the live protocol where a connection was lost.
import { nothing } from "./small.js";
import type { Reply, Session } from "./types.js";

export type Answered = (reply: Reply) => void;

/** What one connection brings from the one before it, and leaves to the next. */
export interface Going {
  /** For the first frame, if there is something to go on from. */
  first(): object | undefined;
  /**
   * Takes down a frame, which was said in a topic or answers what `reply` waits for. Returns who
   * is to have it in the place of all others: who has asked, or nobody if it is done with.
   */
  hears(frame: any, isSaid: boolean, reply: Answered | undefined): Answered | undefined;
  /** Whether it is answered without being asked for. */
  join(topic: string, reply: Answered): boolean;
  leave(topic: string): void;
  session(): Session | undefined;
}

/** The last event of a topic that came. */
interface Position {
  readonly epoch: string;
  offset: number;
}

interface Earlier extends Session {
  readonly resume: string;
  /** Of what is said in no topic. */
  place?: string | undefined;
  readonly rooms: Map<string, Position>;
}

/**
 * For `createSmallClient`: a connection that was lost is gone on with where the gateway can, and
 * what was missed is told.
 */
export function resuming(
  earlier: Session | undefined,
  say: (frame: object, reply: Answered) => void,
): Going {
  const before = earlier as Earlier | undefined;
  let session = before;
  const topics: Earlier["rooms"] = before?.rooms ?? new Map();
  /** Topics that the first frame has named, as long as nobody has asked how they fare. */
  const named = new Set(before && topics.keys());
  /** Who waits for what is answered of them. */
  const asked = new Map<string, Answered>();
  /** A topic is answered: who waits for that. */
  const answers = (topic: string, reply = asked.get(topic)) => {
    asked.delete(topic);
    named.delete(topic);
    return reply;
  };
  return {
    // What is undefined is not said.
    first: () => before && { ...before, rooms: undefined, topics: Object.fromEntries(topics) },
    hears(frame, isSaid, reply) {
      const { type, topic, epoch, offset, place } = frame;
      const at = topics.get(topic);
      /** The topic that came to nothing, if it is known. */
      const about = type === "error" && frame.data?.topic;
      if (session && place !== undefined) session.place = place;
      if (isSaid) {
        // An event that was heard before.
        if (at && offset <= at.offset) return nothing;
        if (at && offset !== undefined) at.offset = offset;
      } else if (type === "subscribed" || type === "gap") {
        // Offsets of an epoch only grow: what is told again has come.
        const seen = at?.epoch === epoch ? at!.offset : 0;
        topics.set(topic, { epoch, offset: Math.max(seen, offset) });
        if (type === "subscribed") reply = answers(topic, reply);
      } else if (type === "hello") {
        const { resume, recovered } = frame.data ?? frame;
        // Who goes on does so from the place where it was.
        // Who begins does so at the place that is told: nothing was said to it before.
        session = resume && { place, ...(recovered && before), resume, rooms: topics };
      } else if (type === "unsubscribed") {
        // It may have been left before it was answered that it was joined.
        topics.delete(topic);
      } else if (about) {
        reply = answers(about, reply);
      } else if (!reply && type === "error" && asked.size > 0) {
        // It does not say which of the named topics it is about: each is asked for by itself.
        for (const [topic, reply] of asked)
          say({ type: "subscribe", topic, recover: topics.get(topic) }, reply);
        asked.clear();
        return nothing;
      }
      return reply;
    },
    join: (topic, reply) => named.delete(topic) && !!asked.set(topic, reply),
    leave(topic) {
      topics.delete(topic);
      // What is answered of it now is not what a later `join` waits for.
      named.delete(topic);
    },
    session: () => session,
  };
}
