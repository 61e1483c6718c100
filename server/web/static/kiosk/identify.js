// @ts-check
/** Which screen is this? Its name, large enough for a technician at the other end of the room. */

const SECONDS = 6;

export class Identify {
  #root;
  #name;
  #timer = 0;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    this.#name = /** @type {HTMLElement} */ (root.querySelector("p"));
  }

  /** @param {string} name */
  show(name) {
    this.#name.textContent = name;
    this.#name.style.setProperty("--letters", String(Math.max(3, name.length)));
    this.#root.setAttribute("data-on", "");
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#root.removeAttribute("data-on"), SECONDS * 1000);
  }
}
