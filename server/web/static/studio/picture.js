// @ts-check
/**
 * A picture that comes out of noise. Only the newest is loaded, and what is shown stays until the next one is decoded:
 * there is no empty moment between two steps. A picture that is not there leaves its place as it was.
 */

import { here } from "../shared/address.js";
import { mark } from "../shared/dom.js";

/** Milliseconds after which one that is not there yet is asked for again, each time longer. */
const AGAIN = [700, 2000, 6000];

/** @type {WeakMap<Element, Picture>} */
const waiting = new WeakMap();
const near = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) if (entry.isIntersecting) waiting.get(entry.target)?.seen();
  },
  { rootMargin: "600px" },
);

/** An address without its seal: that changes, the picture does not. @param {string} address */
const path = (address) => address.split("?", 1)[0] ?? "";

/**
 * A picture, decoded. A browser sends no token for one by itself: one whose address has no seal is fetched with it.
 * @param {string} address @param {string | null} token
 */
async function fetched(address, token) {
  const image = new Image();
  image.alt = "";
  image.decoding = "sync";
  if (!token || address.includes("?")) {
    image.src = here(address);
    await image.decode();
    return image;
  }
  const answer = await fetch(here(address), { headers: { authorization: `Bearer ${token}` } });
  if (!answer.ok) throw new Error(`the Studio answered ${answer.status}`);
  image.src = URL.createObjectURL(await answer.blob());
  try {
    await image.decode();
  } finally {
    URL.revokeObjectURL(image.src);
  }
  return image;
}

export class Picture {
  /** Who asks for pictures. @type {() => string | null} */
  static token = () => null;

  node;
  /** @type {string | null} */
  #wanted = null;
  /** The path of what is shown, or was not to be had. */
  #settled = "";
  #loading = false;
  #near = false;
  #failures = 0;

  /** @param {HTMLElement} node whose picture; it has its size from the beginning */
  constructor(node) {
    this.node = node;
    waiting.set(node, this);
    near.observe(node);
  }

  /** It has come near enough to be looked at. */
  seen() {
    this.#near = true;
    near.unobserve(this.node);
    this.#load();
  }

  /** @param {string | null | undefined} address */
  want(address) {
    if (!address || (this.#wanted && path(address) === path(this.#wanted))) return;
    this.#wanted = address;
    this.#failures = 0;
    this.#load();
  }

  async #load() {
    const address = this.#wanted;
    if (!address || !this.#near || this.#loading || path(address) === this.#settled) return;
    this.#loading = true;
    try {
      const image = await fetched(address, Picture.token());
      this.#show(image);
      this.#settled = path(address);
    } catch {
      const wait = AGAIN[this.#failures];
      this.#failures += 1;
      if (wait === undefined) {
        this.#settled = path(address);
        if (!this.node.querySelector("img")) mark(this.node, "missing", "");
      } else setTimeout(() => this.#load(), wait);
      this.#loading = false;
      if (this.#wanted !== address) this.#load();
      return;
    }
    this.#loading = false;
    this.#load();
  }

  /** @param {HTMLImageElement} image decoded */
  #show(image) {
    const before = this.node.querySelectorAll("img");
    this.node.append(image);
    mark(this.node, "missing", null);
    mark(this.node, "shown", "");
    requestAnimationFrame(() => before.forEach((old) => old.remove()));
  }
}
