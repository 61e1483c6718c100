// @ts-check
/**
 * The picture on the wall: two canvases. Previews are drawn straight onto the one on top; a final image is drawn
 * onto the other, which then rises over it.
 *
 * The rise is one opacity animation run by the compositor, so it keeps its pace while the main thread decodes,
 * and it owns no timer: whatever comes next cancels it and takes over from where it stands.
 */

import { place } from "./layout.js";

/** A final image with nothing before it comes out of the dark in this time, however late it is. */
const FROM_BLACK = 0.9;
const EASING = "cubic-bezier(0.45, 0, 0.4, 1)";

/**
 * @typedef {object} Layer
 * @property {HTMLCanvasElement} canvas
 * @property {CanvasRenderingContext2D} context
 * @property {number} width of the picture drawn on it, 0 for none
 * @property {number} height
 * @property {Blob | null} source to draw it again from
 * @property {Animation | null} motion
 */

export class Picture {
  /** Seconds from the last preview to the final image. */
  crossfade = 3;

  #root;
  #hooks;
  /** @type {Layer} */
  #top;
  /** @type {Layer} */
  #bottom;
  #aspect = 16 / 9;
  #redraws = 0;

  /**
   * @param {HTMLElement} root
   * @param {{placed?: (where: import("./layout.js").Place) => void, failed?: (message: string) => void}} hooks
   */
  constructor(root, hooks = {}) {
    this.#root = root;
    this.#hooks = hooks;
    this.#bottom = this.#layer();
    this.#top = this.#layer();
    addEventListener("resize", () => this.#resized());
    this.#announce();
  }

  /** Whether there is any picture. */
  get any() {
    return this.#top.width > 0;
  }

  /**
   * A preview: at once.
   * @param {ImageBitmap} bitmap
   * @param {Blob | null} source
   */
  swap(bitmap, source) {
    this.#still(this.#top);
    this.#draw(this.#top, bitmap, source);
    this.#top.canvas.style.opacity = "1";
    this.#clear(this.#bottom);
    this.#root.dataset.any = "";
  }

  /**
   * A final image: over `crossfade` seconds.
   * @param {ImageBitmap} bitmap
   * @param {Blob | null} source
   * @param {number} [elapsed] seconds ago that it should have begun
   */
  fade(bitmap, source, elapsed = 0) {
    const before = this.any;
    const left = this.crossfade - elapsed;
    const seconds = before ? left : Math.max(FROM_BLACK, Math.min(left, this.crossfade));
    this.#root.dataset.any = "";
    if (seconds <= 0.02) {
      this.swap(bitmap, source);
      return;
    }
    this.#freeze();
    const below = this.#top;
    const above = this.#bottom;
    this.#top = above;
    this.#bottom = below;
    above.canvas.style.opacity = "0";
    this.#root.append(above.canvas);
    this.#draw(above, bitmap, source);

    const options = { duration: seconds * 1000, easing: EASING, fill: /** @type {const} */ ("both") };
    const motion = above.canvas.animate([{ opacity: 0 }, { opacity: 1 }], options);
    above.motion = motion;
    // A picture of another shape would leave its edges standing beside the new one.
    if (before && !this.#sameShape(above, below)) {
      below.motion = below.canvas.animate([{ opacity: 1 }, { opacity: 0 }], options);
    }
    motion.onfinish = () => {
      if (above.motion !== motion) return;
      this.#still(above);
      above.canvas.style.opacity = "1";
      this.#clear(below);
    };
  }

  /** Nothing on the wall (between screenings, behind the lobby). */
  clear() {
    for (const layer of [this.#top, this.#bottom]) this.#clear(layer);
    delete this.#root.dataset.any;
  }

  stats() {
    const { canvas, width, height, motion } = this.#top;
    return {
      width,
      height,
      canvas_width: canvas.width,
      canvas_height: canvas.height,
      crossfading: motion !== null,
      opacity: Number(getComputedStyle(canvas).opacity),
    };
  }

  // ------------------------------------------------------------- layers

  /** @returns {Layer} */
  #layer() {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 0;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
    /** @type {Layer} */
    const layer = { canvas, context, width: 0, height: 0, source: null, motion: null };
    // A graphics driver that restarts takes the pixels with it; we still have them compressed.
    canvas.addEventListener("contextrestored", () => this.#redraw(layer));
    this.#root.append(canvas);
    return layer;
  }

  /**
   * @param {Layer} layer
   * @param {ImageBitmap} bitmap
   * @param {Blob | null} source
   */
  #draw(layer, bitmap, source) {
    layer.width = bitmap.width;
    layer.height = bitmap.height;
    layer.source = source;
    if (layer === this.#top) {
      const aspect = bitmap.width / bitmap.height;
      if (aspect !== this.#aspect) {
        this.#aspect = aspect;
        this.#announce();
      }
    }
    const [width, height] = this.#put(layer);
    const { canvas, context } = layer;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    context.imageSmoothingQuality = "high";
    // A picture that is transparent in places stands on black, never on the picture before it.
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0, width, height);
  }

  /**
   * Hang it in its place.
   * @param {Layer} layer
   * @returns {[number, number]} the canvas it needs: the picture's own pixels, or the wall's where those are fewer
   */
  #put({ canvas, width, height }) {
    const where = place(innerWidth, innerHeight, width / height);
    const dpr = devicePixelRatio || 1;
    const snap = (/** @type {number} */ v) => Math.round(v * dpr) / dpr;
    const w = snap(where.width);
    const h = snap(where.height);
    canvas.style.left = `${snap(where.left)}px`;
    canvas.style.top = `${snap(where.top)}px`;
    canvas.style.width = `${w}px`;
    canvas.style.height = `${h}px`;
    // Within a few per cent, resampling twice costs more sharpness than it saves memory.
    const shrink = Math.min(1, (w * dpr) / width);
    return shrink > 0.95 ? [width, height] : [Math.round(width * shrink), Math.round(height * shrink)];
  }

  /** Stop a layer's motion, if it moves. @param {Layer} layer */
  #still(layer) {
    const { motion } = layer;
    layer.motion = null;
    motion?.cancel();
  }

  /** @param {Layer} layer */
  #clear(layer) {
    this.#still(layer);
    if (layer.width === 0) return;
    layer.canvas.style.opacity = "0";
    // Gives its memory back: 33 MB for a 4K picture.
    layer.canvas.width = layer.canvas.height = 0;
    layer.width = layer.height = 0;
    layer.source = null;
  }

  /** If a crossfade is under way, make what is seen now the picture on top, and free the other layer. */
  #freeze() {
    const { motion, canvas } = this.#top;
    if (!motion) return;
    if (this.#sameShape(this.#top, this.#bottom)) {
      const shown = Number(getComputedStyle(canvas).opacity);
      this.#bottom.context.globalAlpha = shown;
      this.#bottom.context.drawImage(canvas, 0, 0);
      this.#bottom.context.globalAlpha = 1;
      this.#bottom.source = this.#top.source;
      const top = this.#top;
      this.#top = this.#bottom;
      this.#bottom = top;
    } else {
      this.#top.canvas.style.opacity = "1";
    }
    this.#still(this.#top);
    this.#top.canvas.style.opacity = "1";
    this.#clear(this.#bottom);
  }

  /**
   * @param {Layer} a
   * @param {Layer} b
   */
  #sameShape(a, b) {
    return a.canvas.width === b.canvas.width && a.canvas.height === b.canvas.height;
  }

  #resized() {
    for (const layer of [this.#top, this.#bottom]) {
      if (layer.width === 0) continue;
      const [width] = this.#put(layer);
      if (width !== layer.canvas.width) this.#redraw(layer);
    }
    this.#announce();
  }

  /** @param {Layer} layer */
  async #redraw(layer) {
    const { source } = layer;
    if (!source) return;
    this.#redraws += 1;
    try {
      const bitmap = await createImageBitmap(source);
      if (layer.source === source) this.#draw(layer, bitmap, source);
      bitmap.close();
    } catch (error) {
      this.#hooks.failed?.(`the picture could not be drawn again: ${error}`);
    }
  }

  #announce() {
    this.#hooks.placed?.(place(innerWidth, innerHeight, this.#aspect));
  }
}
