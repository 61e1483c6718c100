// @ts-check
/**
 * The display's own beat: animation frames while somebody needs them, and how long one lasts.
 * The interval is measured, not assumed: walls run at 24, 50, 59.94, 60 and 120 Hz.
 */

const REMEMBERED = 64;
/** Deltas needed before they are believed: a page that loads misses many refreshes. */
const ENOUGH = 24;

export class Display {
  /** Seconds that one display frame lasts. */
  interval = 1 / 60;
  /**
   * Seconds from an animation frame's own time to the light on the wall, by our policy: what is drawn in an
   * animation frame is composed and reaches the display at the next refresh, one interval later. What a
   * projector or a scaler adds after that no browser can know: a venue that has measured it says so
   * with ?latency=MS.
   */
  get latency() {
    return this.interval + this.#extra;
  }

  #extra;
  /** @type {Set<(at: number) => boolean>} */
  #wanted = new Set();
  #running = false;
  #last = 0;
  /** @type {number[]} */
  #deltas = [];
  #next = 0;

  /** @param {number} [extra] seconds that the display chain adds */
  constructor(extra = 0) {
    this.#extra = extra;
  }

  /** Beat for a while with nothing to do, to learn the interval before it matters. */
  measure(frames = 60) {
    this.each(() => (frames -= 1) > 0);
  }

  /**
   * Call at every display frame, with its time in local seconds, until it answers false.
   * @param {(at: number) => boolean} fn
   */
  each(fn) {
    this.#wanted.add(fn);
    if (this.#running) return;
    this.#running = true;
    this.#last = 0;
    requestAnimationFrame(this.#tick);
  }

  #tick = (/** @type {number} */ milliseconds) => {
    const at = milliseconds / 1000;
    if (this.#last > 0) this.#learn(at - this.#last);
    this.#last = at;
    for (const fn of this.#wanted) {
      let more = false;
      try {
        more = fn(at);
      } catch (error) {
        // One hand that slips must not stop the beat for all others; the window's error handler reports it.
        queueMicrotask(() => {
          throw error;
        });
      }
      if (!more) this.#wanted.delete(fn);
    }
    this.#running = this.#wanted.size > 0;
    if (this.#running) requestAnimationFrame(this.#tick);
  };

  /** @param {number} delta */
  #learn(delta) {
    if (delta <= 0.002 || delta > 0.2) return;
    this.#deltas[this.#next] = delta;
    this.#next = (this.#next + 1) % REMEMBERED;
    if (this.#deltas.length < ENOUGH) return;
    // Missed refreshes only ever lengthen a delta, so the truth is well under the median.
    const sorted = this.#deltas.toSorted((a, b) => a - b);
    this.interval = sorted[Math.floor(sorted.length / 4)];
  }
}
