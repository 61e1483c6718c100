// @ts-check
/**
 * The server's clock, as this screen knows it (pure but for the local clock it is given).
 *
 * Every exchange of times is a sample; its error is at most half its round trip, and it ages as two
 * quartz crystals drift apart. The best sample known decides, never an average: one congested
 * moment would pull an average by milliseconds. Small corrections are slewed, so that no picture
 * jumps; only a difference that no slewing could hide is taken at once.
 */

/** Seconds of correction per second: a tenth of a frame in a second is beyond seeing. */
const SLEW = 0.005;
/** A larger difference than this is stepped, not slewed. */
const STEP = 0.05;
/** How fast an old sample loses credit: two cheap crystals may part by this much. */
const DRIFT = 100e-6;
/** Samples remembered. */
const KEPT = 48;
/** The first samples of a connection are taken with care: the page may be busy, and the line as well. */
const SETTLING = 8;

/** @typedef {{offset: number, rtt: number, at: number}} Sample */

export class Clock {
  #local;
  #applied = 0;
  #target = 0;
  #advanced = 0;
  #known = false;
  /** What is known is only a first idea: better ones are taken as they come. */
  #rough = true;
  /** Samples since the clock last had to start afresh. */
  #since = 0;
  /** @type {Sample[]} */
  #samples = [];
  /** @type {Sample | null} */
  #best = null;
  #steps = 0;
  /** Called when the clock jumps, with the seconds by which it did. @type {(seconds: number) => void} */
  onstep = () => {};

  /** @param {() => number} [local] seconds, running evenly */
  constructor(local = () => performance.now() / 1000) {
    this.#local = local;
    this.#advanced = local();
  }

  /** Seconds on this screen's own steady clock. */
  local() {
    return this.#local();
  }

  /** Whether the server's time is known at all. */
  get known() {
    return this.#known;
  }

  /** Seconds on the server's clock. */
  now() {
    return this.toServer(this.#local());
  }

  /** @param {number} local */
  toServer(local) {
    this.#slew();
    return local + this.#applied;
  }

  /**
   * A first idea of the server's time, from its welcome; samples refine it.
   * @param {number} serverTime
   */
  anchor(serverTime) {
    this.#samples = [];
    this.#since = 0;
    if (this.#known && Math.abs(serverTime - this.now()) < 1) return;
    this.#rough = true;
    this.#step(serverTime - this.#local());
  }

  /**
   * One exchange: sent at t0 and answered at t3 here, received at t1 and answered at t2 there.
   * @param {number} t0 @param {number} t1 @param {number} t2 @param {number} t3
   */
  sample(t0, t1, t2, t3) {
    const rtt = Math.max(0, t3 - t0 - (t2 - t1));
    this.#samples.push({ offset: (t1 - t0 + (t2 - t3)) / 2, rtt, at: t3 });
    if (this.#samples.length > KEPT) this.#samples.shift();
    this.#since += 1;

    const doubt = (/** @type {Sample} */ s) => s.rtt / 2 + (t3 - s.at) * DRIFT;
    let best = this.#samples[0];
    for (const s of this.#samples) if (doubt(s) < doubt(best)) best = s;
    this.#best = best;

    this.#slew();
    const off = Math.abs(best.offset - this.#applied);
    const settling = this.#since <= SETTLING;
    if (settling && this.#rough) {
      this.#step(best.offset);
      return;
    }
    this.#rough = false;
    // After a reconnection what we knew is better than the first answers, unless they rule it out.
    if (settling && off <= doubt(best)) return;
    if (off > STEP) this.#step(best.offset);
    else this.#target = best.offset;
  }

  /** What was measured is worth nothing any more (the machine slept); the estimate stays until the next sample. */
  forget() {
    this.#samples = [];
    this.#since = 0;
  }

  stats() {
    return {
      known: this.#known,
      offset: this.#applied,
      target: this.#target,
      rtt: this.#best?.rtt ?? null,
      samples: this.#samples.length,
      steps: this.#steps,
    };
  }

  /** @param {number} offset */
  #step(offset) {
    const by = offset - this.#applied;
    this.#target = this.#applied = offset;
    const first = !this.#known;
    this.#known = true;
    if (first || by === 0) return;
    if (Math.abs(by) > STEP) this.#steps += 1;
    this.onstep(by);
  }

  #slew() {
    const now = this.#local();
    const room = Math.max(0, now - this.#advanced) * SLEW;
    this.#advanced = now;
    const off = this.#target - this.#applied;
    this.#applied += Math.max(-room, Math.min(room, off));
  }
}

/**
 * Keeps a Clock supplied: a burst at every welcome, smaller ones later, and single beats between, which
 * are also how a dead line is noticed.
 */
export class Sync {
  #clock;
  #ask;
  #burst = 0;
  #beat = 0;
  /** @type {Set<number>} times of questions not yet answered */
  #open = new Set();
  #beats = 0;

  /**
   * @param {Clock} clock
   * @param {(t0: number) => void} ask
   */
  constructor(clock, ask) {
    this.#clock = clock;
    this.#ask = ask;
  }

  start() {
    this.stop();
    this.#many(20);
    this.#beat = setInterval(() => {
      this.#beats += 1;
      if (this.#beats % 15 === 0) this.#many(6);
      else this.one();
    }, 2000);
  }

  stop() {
    clearInterval(this.#beat);
    clearTimeout(this.#burst);
    this.#open.clear();
  }

  one() {
    const t0 = this.#clock.local();
    if (this.#open.size > 64) this.#open.clear();
    this.#open.add(t0);
    this.#ask(t0);
  }

  /** @param {{t0: number, t1: number, t2: number}} reply */
  answered({ t0, t1, t2 }) {
    const t3 = this.#clock.local();
    if (this.#open.delete(t0)) this.#clock.sample(t0, t1, t2, t3);
  }

  /** @param {number} count */
  #many(count) {
    clearTimeout(this.#burst);
    this.one();
    if (count > 1) this.#burst = setTimeout(() => this.#many(count - 1), 15);
  }
}
