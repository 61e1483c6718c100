// @ts-check
/**
 * Which frame is on the wall when: the decisions alone (pure). Decoding and drawing are presenter.js.
 *
 * Only one run is current. Its frames wait here in the order in which they are due, compressed; a few
 * are decoded ahead. Whoever calls gives the time; nothing here looks at a clock.
 */

/** @typedef {import("./messages.js").FrameHeader} FrameHeader */

/**
 * A frame on its way to the wall.
 * @typedef {object} Frame
 * @property {FrameHeader} header
 * @property {number} due server time at which it should reach the display
 * @property {boolean} late it arrived past its time (a screen that joined in the middle), so its lateness says nothing of us
 * @property {Blob | null} picture compressed; null until fetched
 * @property {ImageBitmap | null} bitmap decoded
 * @property {"waiting" | "ready" | "decoding" | "decoded" | "gone"} state
 * @property {number} tries
 * @property {number} epoch the connection by which it came
 */

/** At most so many decoded frames wait, */
const MAX_DECODED = 4;
/** and so many bytes: a 4K frame is 33 MB. */
const MAX_DECODED_BYTES = 70 * 2 ** 20;

export class FrameQueue {
  /** The current run, null if there is none. @type {string | null} */
  run = null;
  /** Waiting frames, in the order in which they are due; the final image last of all. @type {Frame[]} */
  #frames = [];
  /** When the frame on the wall was due, if it is one of this run. @type {number | null} */
  #shown = null;
  #finished = false;
  #epoch = 0;
  #shownEpoch = 0;
  /** What a decoded frame of this run takes; a guess until the first is there. */
  #bytes = 4 * 1360 * 768;

  get size() {
    return this.#frames.length;
  }

  get decoded() {
    return this.#frames.filter((f) => f.state === "decoded").length;
  }

  get decodedBytes() {
    return this.#frames.reduce((sum, f) => sum + bytesOf(f), 0);
  }

  get compressedBytes() {
    return this.#frames.reduce((sum, f) => sum + (f.picture?.size ?? 0), 0);
  }

  /**
   * A new run: every frame before it is void. The same run again (a screen that rejoins) changes nothing.
   * @param {string} run
   * @returns {Frame[]} what was dropped
   */
  begin(run) {
    if (run === this.run) return [];
    const dropped = this.void();
    this.run = run;
    return dropped;
  }

  /** No frame of the current run will be shown any more; what is on the wall stays. */
  void() {
    const dropped = this.#frames;
    for (const frame of dropped) release(frame);
    this.#frames = [];
    this.run = null;
    this.#shown = null;
    this.#finished = false;
    return dropped;
  }

  /**
   * @param {FrameHeader} header
   * @param {Blob | null} picture
   * @param {number} now server time
   * @returns {{frame: Frame} | {refused: "void" | "duplicate" | "superseded"}}
   */
  add(header, picture, now) {
    if (header.run !== this.run) return { refused: "void" };
    if (this.#finished) return { refused: "superseded" };
    const due = header.present_at;
    // A run that starts again after a failure counts its steps anew, so it is the time that orders.
    if (this.#shown !== null && due <= this.#shown && !header.final) return { refused: "superseded" };
    const twin = this.#frames.findIndex((f) => f.header.step === header.step && f.header.final === header.final);
    if (twin >= 0) {
      if (this.#frames[twin].due === due) return { refused: "duplicate" };
      release(this.#frames[twin]);
      this.#frames.splice(twin, 1);
    }
    /** @type {Frame} */
    const frame = {
      header,
      due,
      late: due < now,
      picture,
      bitmap: null,
      state: picture ? "ready" : "waiting",
      tries: 0,
      epoch: this.#epoch,
    };
    let place = this.#frames.length;
    while (place > 0 && after(this.#frames[place - 1], frame)) place -= 1;
    this.#frames.splice(place, 0, frame);
    return { frame };
  }

  /**
   * What this display frame should show.
   * @param {number} at server time at which what is drawn now reaches the display
   * @param {number} half half a display frame: of two display frames, the nearer to the due time shows it
   * @returns {{show: Frame, skipped: Frame[]} | null} null: leave the wall as it is
   */
  pick(at, half) {
    let chosen = -1;
    for (let i = 0; i < this.#frames.length; i += 1) {
      if (this.#frames[i].due - half > at) break;
      if (this.#frames[i].state === "decoded") chosen = i;
    }
    if (chosen < 0) return null;
    const show = this.#frames[chosen];
    const skipped = this.#frames.slice(0, chosen);
    for (const frame of skipped) release(frame);
    this.#frames.splice(0, chosen + 1);
    this.#shown = show.due;
    this.#shownEpoch = show.epoch;
    this.#finished = show.header.final;
    return { show, skipped };
  }

  /**
   * The next frame worth decoding, if there is room for it. One that would be overtaken before it could be
   * shown is passed over; the final image is the last, so nothing overtakes it.
   * @param {number} now server time
   * @param {number} takes seconds that decoding takes
   * @returns {Frame | null}
   */
  toDecode(now, takes) {
    let held = 0;
    let bytes = 0;
    for (const f of this.#frames) {
      if (f.state !== "decoded" && f.state !== "decoding") continue;
      held += 1;
      bytes += bytesOf(f) || this.#bytes;
    }
    if (held >= MAX_DECODED || (held > 0 && bytes + this.#bytes > MAX_DECODED_BYTES)) return null;
    for (let i = 0; i < this.#frames.length; i += 1) {
      if (this.#frames[i].state !== "ready") continue;
      const next = this.#frames[i + 1];
      if (next && next.picture && next.due <= now + takes) continue;
      return this.#frames[i];
    }
    return null;
  }

  /**
   * @param {Frame} frame
   * @param {ImageBitmap} bitmap
   */
  wasDecoded(frame, bitmap) {
    if (frame.state === "gone") {
      bitmap.close();
      return;
    }
    frame.bitmap = bitmap;
    frame.state = "decoded";
    this.#bytes = bytesOf(frame);
  }

  /** This one cannot be shown. @param {Frame} frame */
  discard(frame) {
    release(frame);
    const place = this.#frames.indexOf(frame);
    if (place >= 0) this.#frames.splice(place, 1);
  }

  /** When the next frame is due, null if none waits. */
  get nextDue() {
    return this.#frames.length > 0 ? this.#frames[0].due : null;
  }

  /** A new connection: what came before was timed by a clock that may have been another's. */
  reconnected() {
    this.#epoch += 1;
  }

  /**
   * The server's clock jumped. What came by an earlier connection keeps its moment on the wall.
   * @param {number} seconds
   */
  shift(seconds) {
    for (const frame of this.#frames) if (frame.epoch < this.#epoch) frame.due += seconds;
    if (this.#shown !== null && this.#shownEpoch < this.#epoch) this.#shown += seconds;
  }
}

/**
 * @param {Frame} a
 * @param {Frame} b
 */
function after(a, b) {
  return a.header.final !== b.header.final ? a.header.final : a.due > b.due;
}

/** @param {Frame} frame */
function bytesOf(frame) {
  return frame.bitmap ? 4 * frame.bitmap.width * frame.bitmap.height : 0;
}

/** @param {Frame} frame */
function release(frame) {
  frame.bitmap?.close(); // the collector would take its time: 200 MB flat with this, a 1 GB sawtooth without
  frame.bitmap = null;
  frame.picture = null;
  frame.state = "gone";
}
