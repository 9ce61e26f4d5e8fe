// A document to render into, before a framework is loaded that looks for one.
import { Window } from "happy-dom";

const window = new Window({ url: "https://app.example/" });
for (const name of [
  "window",
  "navigator",
  "document",
  "Node",
  "Element",
  "HTMLElement",
  "SVGElement",
  "Text",
  "Comment",
  "Event",
  "MouseEvent",
  "FocusEvent",
  "CustomEvent",
  "MutationObserver",
  "HTMLInputElement",
  "HTMLIFrameElement",
  "HTMLMediaElement",
  "ShadowRoot",
  "DocumentFragment",
  "NodeFilter",
])
  Object.defineProperty(globalThis, name, {
    configurable: true,
    value: name === "window" ? window : window[name],
  });

/** An empty place in the document. */
export function place() {
  document.body.replaceChildren();
  return document.body.appendChild(document.createElement("div"));
}

/** What the status light says, and its button. */
export const light = (root) => ({
  status: root.querySelector(".heartline-status")?.getAttribute("data-status"),
  words: root.querySelector("[role=status]")?.textContent,
  button: [...root.querySelectorAll("button")].find(({ hidden }) => !hidden),
  shape: ["d", "fill"].map((name) => root.querySelector("path")?.getAttribute(name)).join(),
});
