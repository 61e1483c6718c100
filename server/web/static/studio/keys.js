// @ts-check
/** Keys: each is named once, with what it does, and the list of all is made of that. */

/**
 * @typedef {object} Key
 * @property {string} key as `name` tells it
 * @property {string} shown as people read it
 * @property {string} does what it does, in words
 * @property {(event: KeyboardEvent) => unknown} act false where it is not for us
 * @property {boolean} [typing] works in a field, too
 */

/** A key with what is held: shift+arrowup, control+enter, ?. @param {KeyboardEvent} event */
export function name(event) {
  const key = event.key.toLowerCase();
  const control = event.ctrlKey || event.metaKey ? "control+" : "";
  const shift = event.shiftKey && key.length > 1 ? "shift+" : ""; // what shift makes of a letter says so itself
  return `${control}${event.altKey ? "alt+" : ""}${shift}${key}`;
}

export class Keys {
  /** @type {{title: string, keys: Key[]}[]} */
  groups = [];
  /** @type {Map<string, Key>} */
  #all = new Map();

  constructor() {
    addEventListener("keydown", (event) => this.#press(event));
  }

  /** @param {string} title of the group in the list @param {Key[]} keys */
  add(title, keys) {
    this.groups.push({ title, keys });
    for (const key of keys) for (const one of key.key.split(" ")) this.#all.set(one, key);
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const key = this.#all.get(name(event));
    if (!key) return;
    const target = /** @type {HTMLElement} */ (event.target);
    if (!key.typing && target.matches("input, select, textarea")) return;
    if (event.repeat && !key.key.includes("arrow")) return;
    if (key.act(event) !== false) event.preventDefault();
  }
}
