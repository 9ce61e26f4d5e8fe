import type { Core } from "./core.js";
import { isPassing, type Filler, type Wanted } from "./parts.js";
import type { HeartlineError, Hello, Message, Place, Session } from "./types.js";

interface Answer {
  readonly messages: readonly Message[];
  readonly head: number;
  readonly floor: number;
  readonly complete: boolean;
}

/** What is known of a conversation. */
interface History {
  /** The last message that was told, or was there before it was joined. */
  last?: number;
  /** Ids of the messages told last. */
  readonly told: Set<string>;
  /** Messages that wait until those before them have been told, and where they were said. */
  held?: [Message, Place][] | undefined;
  /** Names the reading of its history that goes on. */
  filling?: object | undefined;
  /** Some of what was missed cannot be had. */
  isLacking?: boolean | undefined;
  /** Its end may be missing: nobody has asked since the node was another one. */
  isUnsure?: boolean | undefined;
  /** Its history knows less than is said in it: its offsets are not of one count, and say nothing. */
  isLoose?: boolean | undefined;
}

/** A conversation's room is this and its id. */
const CONVERSATION = "conversation:";
/** Messages that the server gives in one answer. */
const PART = 200;
/** Messages of a conversation that are known by their ids, so that none is told twice. */
const MOST_TOLD = 2 * PART;
/** Messages that may wait for those before them; what is too much is in the history too. */
const MOST_HELD = 1_000;
/** Messages of a conversation that are filled in. Whoever missed more is to load afresh. */
const MOST_FILLED = 10_000;
/** The count of tries in a row, from -1 on, after which a history is not asked for any more. */
const MORE_TRIES = 3;

const isConversation = (room: string) => room.startsWith(CONVERSATION);

/** Fills what was missed of conversations from their history, so that each message is told once. */
export class Missed implements Filler {
  #nodeId: string | undefined;

  constructor(readonly client: Core<any, any>) {}

  #of(room: Wanted): History {
    return (room.history ??= { told: new Set() }) as History;
  }

  #isOver(name: string, room: Wanted): boolean {
    return this.client["wanted"](name) !== room;
  }

  drop(rooms: ReadonlyMap<string, Wanted>, session: Session | undefined): void {
    for (const [name, room] of rooms) {
      const history = this.#of(room);
      history.filling = undefined;
      // What was held has not been told: nobody is to believe that it was.
      if (history.held) session?.rooms?.delete(name);
    }
  }

  hello({ nodeId }: Hello, rooms: ReadonlyMap<string, Wanted>): void {
    const isElsewhere = this.#nodeId !== nodeId;
    this.#nodeId = nodeId;
    for (const [name, room] of rooms) {
      const history = this.#of(room);
      history.isLoose = false;
      history.isUnsure ||= isElsewhere;
      // What was being filled when the connection was lost is to be filled now.
      if (room.wasIn && history.held) room.isStale = true;
      if (room.isStale && isConversation(name)) history.held ??= [];
    }
  }

  joining(name: string, room: Wanted): void {
    if (!isConversation(name)) return;
    // Nobody knows yet what comes first.
    if (this.#of(room).last === undefined) this.#of(room).held ??= [];
    void this.#fill(name, room, false);
  }

  /** A node that was killed may have stored what it has told to nobody: who goes on asks. */
  lookBack(name: string, room: Wanted): void {
    if (room.wasIn && this.#of(room).isUnsure) this.joining(name, room);
  }

  goesOn(name: string, room: Wanted): void {
    const history = this.#of(room);
    // Of a gap since then, what was missed is read already, and told of.
    if (history.filling) return;
    const held = history.held ?? [];
    history.held = undefined;
    for (const [message, at] of held) this.message(message, name, at);
    this.lookBack(name, room);
  }

  missed(name: string, room: Wanted): boolean {
    if (!isConversation(name)) return false;
    this.#of(room).held ??= [];
    void this.#fill(name, room, true);
    return true;
  }

  /** A message of a conversation that this client is in is told once, after those before it. */
  message(message: Message, said: string | undefined, at: Place): void {
    const { conversationId, offset } = message ?? {};
    const name = said ?? CONVERSATION + conversationId;
    const room = this.client["wanted"](name);
    // Over Socket.IO, it may be of the open room of that name: its offsets are others.
    const isSure = said !== undefined || !this.client["wanted"](conversationId);
    if (!room || !isConversation(name) || typeof offset !== "number" || !isSure)
      return this.client["tell"]("message:new", message, at);
    const history = this.#of(room);
    if (history.held) {
      if (history.held.push([message, at]) > MOST_HELD) history.held.shift();
    } else if (offset > history.last! + 1 && !history.isLoose) {
      history.held = [[message, at]];
      void this.#fill(name, room, false);
    } else this.#tellOnce(history, message, at);
  }

  #tellOnce(history: History, message: Message, at: Place): void {
    const { id, offset } = message;
    const { told } = history;
    history.last = Math.max(history.last ?? 0, offset);
    if (told.has(id)) return;
    told.add(id);
    if (told.size > MOST_TOLD) told.delete(told.values().next().value!);
    this.client["tell"]("message:new", message, at);
  }

  /**
   * Tells those that were held and are next, in their order; with `isAll` the others as well, before
   * each of which something is missing.
   */
  #tellHeld(name: string, room: Wanted, isAll = false): void {
    const history = this.#of(room);
    const held = history.held?.sort(([a], [b]) => a.offset - b.offset);
    if (isAll) history.held = undefined;
    while (held?.length && !this.#isOver(name, room)) {
      const [[message, at]] = held as [[Message, Place]];
      if (message.offset > history.last! + 1) {
        if (!isAll) return;
        history.isLacking = true;
      }
      held.shift();
      this.#tellOnce(history, message, at);
    }
  }

  /** Tells what is new in a conversation's history, or only notes where it stands. */
  async #fill(name: string, room: Wanted, isMissed: boolean, tries = -1): Promise<void> {
    const history = this.#of(room);
    const filling = (history.filling = {});
    const isOver = () => history.filling !== filling || this.#isOver(name, room);
    const conversationId = name.slice(CONVERSATION.length);
    let after = history.last;
    try {
      for (;;) {
        const limit = after === undefined ? 1 : PART;
        // What was heard before it is asked, its answer has to know.
        const heard = Math.max(...(history.held ?? []).map(([{ offset }]) => offset));
        const answer = await this.client.request("history:get", { conversationId, after, limit });
        if (isOver()) return;
        // It answers: who fails later has as many tries as who has not answered yet.
        tries = -1;
        const { head, floor, messages, complete } = answer as unknown as Answer;
        // Of a conversation that nothing is known of, it is neither.
        const isFar = head - after! > MOST_FILLED;
        const isOther = isFar || head < after!;
        // What is gone of those that were told already is nobody's loss.
        if (isOther || (after === undefined ? isMissed : !complete && floor > history.last!))
          history.isLacking = true;
        // Who has told a message knows better where it stands than who has only asked.
        if (isOther || history.last === undefined) history.last = head;
        else if (after !== undefined)
          for (const message of messages) this.#tellOnce(history, message, { room: name });
        // A handler may have left.
        if (isOver()) return;
        history.held = history.held?.filter(([{ id }]) => !history.told.has(id));
        this.#tellHeld(name, room);
        if (isOver()) return;
        history.isLoose = heard > head;
        // What is held yet was said behind a hole after the question, unless nobody knows of it.
        if (history.last < head ? !messages.length : history.isLoose || !history.held?.length) break;
        after = history.last;
      }
    } catch (caught) {
      const error = caught as HeartlineError;
      if (isOver()) return;
      if (isPassing(error) && (error.code !== "INTERNAL" || tries < MORE_TRIES))
        return this.client["again"](
          error,
          tries++,
          () => isOver() || void this.#fill(name, room, isMissed, tries),
        );
      history.isLacking = isMissed || after !== undefined;
    }
    history.filling = undefined;
    history.isUnsure = undefined;
    // What was held is told, now that all before it has been told.
    this.#tellHeld(name, room, true);
    const filled = !history.isLacking;
    history.isLacking = undefined;
    if (isMissed || !filled) this.client["tell"]("room:missed", { room: name, filled });
  }
}
