import type { Core } from "./core.js";
import { Told } from "./told.js";
import type { Message, Place, Reply, ServerEvents } from "./types.js";

/** How a room and this client stand. Never changed; what is different is a new one. */
export interface RoomState {
  /** `out`: this user does not want to be in it; `refused`: the server does not let them. */
  readonly status: "out" | "joining" | "in" | "refused";
  /** Why the server has refused, or taken the room away. */
  readonly code?: string;
}

/** A part of a conversation's history. */
export interface HistoryPart {
  readonly messages: readonly Message[];
  /** The offset of the last message that there was. */
  readonly head: number;
  /** That of the last one that is not kept any more; 0: all are. */
  readonly floor: number;
  /** `false`: some of what was asked for is gone. */
  readonly complete: boolean;
}

/** A conversation's room is this and its id. */
const CONVERSATION = "conversation:";
/** What the gateway itself says in conversations, and never anybody else. */
const GATEWAYS = /^(message:(new|read)|member:(joined|left))$/;
const ABOUT = /^room:/;

/** A room, as one of those who use it sees it. */
export class Room<Incoming extends object, Outward extends object> {
  #state = new Told<RoomState>({ status: "out" });
  readonly #offs = new Set<() => void>();
  #watching: (() => void)[] | undefined;
  #offset: number | undefined;

  constructor(
    readonly client: Core<Incoming, Outward>,
    /** Its topic. */
    readonly name: string,
  ) {}

  get state(): RoomState {
    return this.#state.value;
  }

  /** Whether the client is in it now. */
  get joined(): boolean {
    return this.client.isIn(this.name);
  }

  /** The place of the last event that was heard while this user was in it, if events have one. */
  get offset(): number | undefined {
    return this.#offset;
  }

  /** Calls `listener` with the state now and each one that follows. Returns what ends that. */
  subscribe(listener: (state: RoomState) => void): () => void {
    return this.#state.subscribe(listener);
  }

  /** Wants to be in the room, over all reconnections. Settles as `client.join` does. */
  join(): Promise<void> {
    const { client, name } = this;
    this.#watching ??= [
      client.subscribe(() => this.#look()),
      ...(["room:in", "room:lost", "room:out"] as const).map((event) =>
        client.on(event, ((data: { room: string; code?: string }) => {
          if (data.room === name) this.#look(data.code);
        }) as never),
      ),
    ];
    const joined = client.join(name, this);
    this.#become(this.joined ? { status: "in" } : { status: "joining" });
    return joined;
  }

  /** Does not want to be in it any more. The client leaves it if nobody else does. */
  leave(): void {
    for (const off of this.#watching ?? []) off();
    this.#watching = undefined;
    this.client.leave(this.name, this);
    this.#become({ status: "out" });
  }

  /** Leaves, and hears nothing any more. */
  close(): void {
    for (const off of this.#offs) off();
    this.leave();
    // Nobody is told any more.
    this.#state = new Told(this.state);
  }

  #look(code?: string): void {
    const { client, name } = this;
    const { status } = client.state;
    if (code !== undefined) return this.#become({ status: "refused", code });
    if (this.joined) return this.#become({ status: "in" });
    // Then nobody asks for it; but the next connection joins what has been joined once.
    if (status === "disconnected" || status === "failed") return this.#become({ status: "out" });
    if (client["wanted"](name)?.users.has(this)) this.#become({ status: "joining" });
  }

  #become(state: RoomState): void {
    const { status, code } = this.state;
    if (status !== state.status || code !== state.code) this.#state.become(state);
  }

  /**
   * Hears events that were said in this room alone. Over Socket.IO nothing says where an
   * application's event was said: there it hears what the gateway says in conversations, and of
   * its rooms. Returns what ends that.
   */
  on<K extends keyof (Incoming & ServerEvents) & string>(
    event: K,
    handler: (data: (Incoming & ServerEvents)[K], at: Place) => void,
  ): () => void {
    const end = this.client.on(event, (data) => {
      const at = this.client.place;
      if (!this.#isHere(event, data, at.room)) return;
      if (at.offset !== undefined) this.#offset = at.offset;
      handler(data, at);
    });
    const off = () => {
      this.#offs.delete(off);
      end();
    };
    this.#offs.add(off);
    return off;
  }

  #isHere(event: string, data: any, room: string | undefined): boolean {
    const { client, name } = this;
    if (room !== undefined) return room === name;
    if (ABOUT.test(event)) return data?.room === name;
    if (!GATEWAYS.test(event)) return false;
    const id: unknown = data?.conversationId;
    if (CONVERSATION + id === name) return !client.isIn(`${id}`);
    // An open room and a conversation may have one name: then nobody can tell.
    return id === name && !client.isIn(CONVERSATION + id);
  }

  /** Publishes here; with a `key`, a slow reader gets only the newest of each. */
  publish<K extends keyof Incoming & string>(
    event: K,
    data: Incoming[K],
    key?: string,
  ): Promise<Reply> {
    return this.client.publish(this.name, event, data, key);
  }

  /** What was said in a conversation: its newest messages, those after an offset or before one. */
  async history(
    part: { after?: number; before?: number; limit?: number } = {},
  ): Promise<HistoryPart> {
    const conversationId = this.name.slice(CONVERSATION.length);
    const asked = { conversationId, ...part };
    return (await this.client.request("history:get", asked as never)) as unknown as HistoryPart;
  }
}
