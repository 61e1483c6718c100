// @ts-check
/** The little that this page needs of the document: finding, making and changing only what has changed. */

/**
 * @param {string} id
 * @returns {any}
 */
export const element = (id) => document.getElementById(id);

/**
 * @param {string} tag
 * @param {Record<string, any>} [properties] set as properties; `data` and `aria` by name, `on` as listeners
 * @param {...(Node | string | null)} children
 * @returns {any}
 */
export function make(tag, { data, aria, on, ...properties } = {}, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, properties);
  for (const [name, value] of Object.entries(data ?? {})) made.dataset[name] = value;
  for (const [name, value] of Object.entries(aria ?? {})) made.setAttribute(`aria-${name}`, value);
  for (const [name, listener] of Object.entries(on ?? {})) made.addEventListener(name, listener);
  if (children.some((child) => typeof child === "string")) made.dir ||= "auto";
  made.append(...children.filter((child) => child !== null));
  return made;
}

/**
 * A button that gives a command.
 * @param {(command: string, args: any) => void} act
 * @param {string} text @param {string} command @param {any} args @param {string} label
 */
export const deed = (act, text, command, args, label) =>
  make("button", { type: "button", data: { command }, aria: { label }, on: { click: () => act(command, args) } }, text);

/**
 * Put words where they are read. Whose words they are, and from which side those are written, is not known
 * here: so everything that is said finds its own direction.
 * @param {HTMLElement} node
 * @param {string} value
 */
export function say(node, value) {
  if (node.textContent === value) return;
  node.dir ||= "auto";
  node.textContent = value;
}

/**
 * @param {HTMLElement} node
 * @param {string} name
 * @param {string | null} value null takes it away
 */
export function mark(node, name, value) {
  if (value === null) delete node.dataset[name];
  else if (node.dataset[name] !== value) node.dataset[name] = value;
}

/**
 * Keep a list of elements, one for each item, in their order; what stays keeps its element, and its focus.
 * @template T
 * @param {HTMLElement} list
 * @param {T[]} items
 * @param {(item: T, index: number) => string} key
 * @param {(item: T) => HTMLElement} create
 * @param {(node: any, item: T) => void} update
 */
export function keep(list, items, key, create, update) {
  const known = new Map([...list.children].map((child) => [/** @type {HTMLElement} */ (child).dataset.key, child]));
  items.forEach((item, index) => {
    const name = key(item, index);
    let node = /** @type {HTMLElement | undefined} */ (known.get(name));
    known.delete(name);
    if (!node) {
      node = create(item);
      node.dataset.key = name;
    }
    update(node, item);
    if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
  });
  for (const node of known.values()) node.remove();
}
