/**
 * Vue: the state of the connection, rooms and presence as composables, and a status light.
 *
 * @module
 */
import {
  computed,
  defineComponent,
  h,
  inject,
  onBeforeMount,
  onMounted,
  onUnmounted,
  provide,
  shallowRef,
  toValue,
  watch,
  type ComputedRef,
  type InjectionKey,
  type MaybeRefOrGetter,
  type PropType,
  type ShallowRef,
} from "vue";
import {
  hold,
  isMissed,
  roomOf,
  statusOf,
  type AnyClient,
  type Events,
  type Store,
  type TheClient,
} from "./bindings.js";
import { presenceOf, type PresenceOptions, type PresencePicture, type Whom } from "./together.js";
import type { State } from "./types.js";
import { describe, describeButton, dotted, drawn, laidOut } from "./words.js";

export type { Events, Register } from "./bindings.js";
export type { PresenceOptions, PresencePicture, PresentUser, Whom } from "./together.js";
export { describe, describeButton } from "./words.js";

const KEY: InjectionKey<AnyClient> = Symbol("heartline");

/**
 * Gives a client to all that is within, and connects it while it is shown. One that is shown anew
 * at once finds the same connection, and all that waits for it; of several, the last one to go
 * disconnects it. Make the client once, with `autoConnect: false`:
 *
 * ```html
 * <HeartlineProvider :client="heartline">…</HeartlineProvider>
 * ```
 */
export const HeartlineProvider = defineComponent({
  name: "HeartlineProvider",
  props: { client: { type: Object as PropType<AnyClient>, required: true } },
  setup({ client }, { slots }) {
    provide(KEY, client);
    let release = () => {};
    // Before the children: what they send finds a client that connects.
    onBeforeMount(() => (release = hold(client)));
    onUnmounted(() => release());
    return () => slots.default?.();
  },
});

/** The client of the provider around. */
export function useHeartline<T extends AnyClient = TheClient>(): T {
  const client = inject(KEY, undefined);
  if (!client) throw new Error("useHeartline needs a <HeartlineProvider> around it");
  return client as T;
}

/** Subscribes to the store of the moment while the component is there. */
function useStore<T>(store: () => Store<T>): Readonly<ShallowRef<T>> {
  const value = shallowRef(store().get());
  // Not on a server, where nothing would end it.
  onMounted(() =>
    watch(store, (now, _, onCleanup) => onCleanup(now.subscribe((next) => (value.value = next))), {
      immediate: true,
    }),
  );
  return value;
}

/** What is true of the connection. */
export function useConnectionStatus(): Readonly<ShallowRef<State>> {
  const store = statusOf(useHeartline<AnyClient>());
  return useStore(() => store);
}

/** Hears an event for as long as the component is there. */
export function useEvent<E extends keyof Events & string>(
  event: E,
  handler: (data: Events[E]) => void,
): void {
  const client = useHeartline<AnyClient>();
  let off = () => {};
  onBeforeMount(() => (off = client.on(event, handler)));
  onUnmounted(() => off());
}

/**
 * Calls `load` when what is shown of a room has to be loaded afresh: events of it were missed,
 * and cannot be had. Messages of conversations come by themselves wherever they can.
 */
export function useMissed(room: MaybeRefOrGetter<string>, load: () => void): void {
  useEvent("room:missed", (missed) => {
    if (isMissed(missed, toValue(room))) load();
  });
}

/**
 * Is in a room for as long as some component asks for it, over all reconnections. Says
 * whether it is in there now, and if the server has refused, why.
 */
export function useRoom(room: MaybeRefOrGetter<string>): {
  joined: ComputedRef<boolean>;
  error: ComputedRef<Error | undefined>;
} {
  const client = useHeartline<AnyClient>();
  const store = computed(() => roomOf(client, toValue(room)));
  const state = useStore(() => store.value);
  return { joined: computed(() => state.value.joined), error: computed(() => state.value.error) };
}

/**
 * Presence of users by their ids, or of whoever is in a room, kept up to date; its `state` says
 * whether it is complete, catching up, or stale, and since when. All components that ask in one
 * tick ask the server together. How many devices users have is not announced: with `refresh` it
 * is asked for again every so many milliseconds.
 */
export function usePresence(
  whom: MaybeRefOrGetter<Whom>,
  options?: PresenceOptions,
): Readonly<ShallowRef<PresencePicture>> {
  const client = useHeartline<AnyClient>();
  // By the names: an array that is another one and says the same changes nothing.
  const names = computed(() => JSON.stringify(toValue(whom)));
  const store = computed(() => presenceOf(client, JSON.parse(names.value) as Whom, options));
  return useStore(() => store.value);
}

/**
 * The status light: a shape and a text, which screen readers are told of, and a button
 * while it takes somebody to try, or may help to. Colours, sizes and fonts are CSS variables:
 * `--heartline-connected`, `-reconnecting`, `-failed`, `-disconnected`, `-text`, `-gap`
 * and `-dot`.
 */
export const ConnectionStatus = defineComponent({
  name: "ConnectionStatus",
  props: {
    /** The words, in another language. A screen reader speaks them whenever they change. */
    labels: { type: Function as PropType<(state: State) => string>, default: describe },
    /** Those on the button; without any, there is none. */
    buttonLabels: {
      type: Function as PropType<(state: State) => string | undefined>,
      default: describeButton,
    },
  },
  setup(props) {
    const client = useHeartline<AnyClient>();
    const state = useConnectionStatus();
    const button = computed(() => props.buttonLabels(state.value));
    let words: HTMLElement | undefined;
    let pressed: HTMLElement | undefined;
    // Whoever has pressed the button that is gone is not sent back to the top of the page.
    watch(
      button,
      (label) => {
        if (!label && pressed) words?.focus();
        if (!label) pressed = undefined;
      },
      { flush: "post" },
    );
    const attributes = { viewBox: "0 0 10 10", width: "0.8em", height: "0.8em" };
    return () =>
      h(
        "span",
        {
          class: "heartline-status",
          "data-status": state.value.status,
          ref: (element) => laidOut(element as HTMLElement | null),
        },
        [
          h(
            "svg",
            {
              ...attributes,
              "aria-hidden": "true",
              ref: (element) => dotted(element as unknown as SVGElement | null),
            },
            [h("path", drawn(state.value))],
          ),
          h(
            "span",
            {
              role: "status",
              "aria-live": "polite",
              tabindex: -1,
              ref: (element) => (words = element as HTMLElement),
            },
            props.labels(state.value),
          ),
          button.value &&
            h(
              "button",
              {
                type: "button",
                onFocus: (event: FocusEvent) => (pressed = event.target as HTMLElement),
                onBlur: () => button.value && (pressed = undefined),
                onClick: () => client.connect(),
              },
              button.value,
            ),
        ],
      );
  },
});
