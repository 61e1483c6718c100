// @ts-check
/**
 * Brings the frames of a run to the wall at their time: fetches where it must, decodes ahead, draws in the display frame
 * nearest to `present_at`, and says when each was really seen.
 */

import { here } from "../shared/address.js";
import { FrameQueue } from "./frames.js";

/**
 * @typedef {import("./frames.js").Frame} Frame
 * @typedef {import("./messages.js").FrameHeader} FrameHeader
 */

/** The animation loop runs only so long before a frame is due; until then one timer sleeps. */
const AWAKE = 0.25;
const DECODERS = 2;
const FETCHES = 3;
const REMEMBERED = 4096;

export class Presenter {
  #clock;
  #display;
  #picture;
  #hooks;
  #queue = new FrameQueue();
  #timer = 0;
  #decoding = 0;
  #takes = 0.015;
  #fetching = 0;
  #abort = new AbortController();
  #counts = {
    received: 0,
    presented: 0,
    late: 0,
    dropped_late: 0,
    dropped_void: 0,
    dropped_duplicate: 0,
    dropped_superseded: 0,
    failed: 0,
    runs: 0,
    finals: 0,
  };
  #errors = new Float64Array(REMEMBERED);
  #errorCount = 0;
  /** @type {FrameHeader | null} */
  #shown = null;

  /**
   * @param {object} parts
   * @param {import("../shared/clock.js").Clock} parts.clock
   * @param {import("./display.js").Display} parts.display
   * @param {import("./picture.js").Picture} parts.picture
   * @param {object} hooks
   * @param {(header: FrameHeader, at: number) => void} hooks.presented a frame reached the display, by server time
   * @param {(message: string) => void} hooks.failed
   */
  constructor({ clock, display, picture }, hooks) {
    this.#clock = clock;
    this.#display = display;
    this.#picture = picture;
    this.#hooks = hooks;
    document.addEventListener("visibilitychange", () => this.#wake());
  }

  /** The current run. */
  get run() {
    return this.#queue.run;
  }

  /** Header of what is on the wall, if it came from a run. */
  get shown() {
    return this.#shown;
  }

  /** @param {string} run */
  begin(run) {
    if (run === this.#queue.run) return;
    this.#counts.runs += 1;
    this.#drop(this.#queue.begin(run));
  }

  /** The picture stays as it is; what was still to come is void. */
  halt() {
    this.#drop(this.#queue.void());
  }

  /** The wall is empty. */
  forget() {
    this.halt();
    this.#shown = null;
  }

  /** The line is a new one, perhaps to a new server with another clock. */
  reconnected() {
    this.#queue.reconnected();
  }

  /** The server's clock jumped. @param {number} seconds */
  shift(seconds) {
    this.#queue.shift(seconds);
    this.#wake();
  }

  /**
   * @param {FrameHeader} header
   * @param {Blob | null} picture null: it is to be fetched from `header.url`
   */
  add(header, picture) {
    this.#counts.received += 1;
    const answer = this.#queue.add(header, picture, this.#clock.now());
    if ("refused" in answer) {
      this.#counts[`dropped_${answer.refused}`] += 1;
      return;
    }
    if (!picture) this.#fetch(answer.frame);
    this.#decode();
    this.#wake();
  }

  stats() {
    const n = Math.min(this.#errorCount, REMEMBERED);
    const start = this.#errorCount - n;
    return {
      frames: { ...this.#counts },
      queue: {
        waiting: this.#queue.size,
        compressed_bytes: this.#queue.compressedBytes,
        decoded: this.#queue.decoded,
        decoded_bytes: this.#queue.decodedBytes,
        decode_seconds: this.#takes,
      },
      run: this.#queue.run,
      shown: this.#shown && { run: this.#shown.run, step: this.#shown.step, final: this.#shown.final },
      /** Seconds, presented minus due, oldest first: of every frame that arrived before its time. */
      errors: Array.from({ length: n }, (_, i) => this.#errors[(start + i) % REMEMBERED]),
    };
  }

  // ------------------------------------------------------------- compressed, then decoded

  /** @param {Frame} frame */
  async #fetch(frame) {
    if (this.#fetching >= FETCHES) {
      setTimeout(() => frame.state === "waiting" && this.#fetch(frame), 20);
      return;
    }
    this.#fetching += 1;
    let again = false;
    try {
      const answer = await fetch(here(String(frame.header.url)), { signal: this.#abort.signal });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const picture = await answer.blob();
      if (frame.state !== "waiting") return;
      frame.picture = picture;
      frame.state = "ready";
      frame.tries = 0;
    } catch (error) {
      if (frame.state !== "waiting") return;
      frame.tries += 1;
      again = frame.tries < 5;
      if (!again) {
        this.#queue.discard(frame);
        this.#fail(frame, "could not be fetched", error);
      }
    } finally {
      this.#fetching -= 1;
    }
    if (again) setTimeout(() => frame.state === "waiting" && this.#fetch(frame), 100 * 2 ** frame.tries);
    else this.#decode();
    this.#wake();
  }

  #decode() {
    while (this.#decoding < DECODERS) {
      const frame = this.#queue.toDecode(this.#clock.now(), this.#takes);
      if (!frame) return;
      this.#decodeOne(frame);
    }
  }

  /** @param {Frame} frame */
  async #decodeOne(frame) {
    frame.state = "decoding";
    this.#decoding += 1;
    const began = this.#clock.local();
    try {
      const bitmap = await createImageBitmap(/** @type {Blob} */ (frame.picture));
      this.#takes += 0.2 * (Math.min(1, this.#clock.local() - began) - this.#takes);
      this.#queue.wasDecoded(frame, bitmap);
    } catch (error) {
      if (!isGone(frame)) {
        frame.tries += 1;
        // Once more for the final image, should memory have been short for a moment; a broken one stays broken.
        if (frame.header.final && frame.tries < 2) frame.state = "ready";
        else {
          this.#queue.discard(frame);
          this.#fail(frame, "could not be decoded", error);
        }
      }
    } finally {
      this.#decoding -= 1;
    }
    this.#decode();
    this.#wake();
  }

  /**
   * @param {Frame} frame
   * @param {string} what
   * @param {unknown} error
   */
  #fail(frame, what, error) {
    this.#counts.failed += 1;
    const { run, step } = frame.header;
    this.#hooks.failed(`frame ${step} of run ${run} ${what}: ${error}`);
  }

  // ------------------------------------------------------------- on the wall

  #wake() {
    if (this.#soon()) this.#display.each(this.#tick);
  }

  /** Whether the animation loop should run; if not yet, a timer will see to it. */
  #soon() {
    clearTimeout(this.#timer);
    const due = this.#queue.nextDue;
    if (due === null) return false;
    const sleep = due - this.#clock.now() - AWAKE;
    // Never longer than a second: the clock may be corrected while we sleep.
    if (sleep > 0) this.#timer = setTimeout(() => this.#wake(), Math.min(sleep, 1) * 1000);
    return sleep <= 0;
  }

  #tick = (/** @type {number} */ local) => {
    const at = this.#clock.toServer(local) + this.#display.latency;
    const picked = this.#queue.pick(at, this.#display.interval / 2);
    if (picked) this.#present(picked.show, picked.skipped.length, at);
    return this.#soon();
  };

  /**
   * @param {Frame} frame
   * @param {number} skipped
   * @param {number} at
   */
  #present(frame, skipped, at) {
    const { header } = frame;
    const bitmap = /** @type {ImageBitmap} */ (frame.bitmap);
    if (header.final) this.#picture.fade(bitmap, frame.picture, frame.late ? Math.max(0, at - frame.due) : 0);
    else this.#picture.swap(bitmap, frame.picture);
    bitmap.close();
    frame.bitmap = null;
    frame.state = "gone";

    this.#shown = header;
    this.#counts.presented += 1;
    this.#counts.dropped_late += skipped;
    if (header.final) this.#counts.finals += 1;
    if (!frame.late) {
      const error = at - frame.due;
      this.#errors[this.#errorCount % REMEMBERED] = error;
      this.#errorCount += 1;
      if (error > this.#display.interval) this.#counts.late += 1;
    }
    this.#hooks.presented(header, at);
    // After the drawing, so that it does not wait for us.
    queueMicrotask(() => this.#decode());
  }

  /** @param {Frame[]} dropped */
  #drop(dropped) {
    this.#counts.dropped_void += dropped.length;
    clearTimeout(this.#timer);
    this.#abort.abort();
    this.#abort = new AbortController();
  }
}

/** Whether its run was voided while it was being worked on. @param {Frame} frame */
function isGone(frame) {
  return frame.state === "gone";
}
