// @ts-check
/**
 * The screen wire, protocol 1: what the server says, taken apart and checked (pure).
 * The other half is server/stage/messages.py. What cannot be understood is left out, never thrown: a newer
 * server must not stop an older page.
 */

export const PROTOCOL = 1;

/**
 * @typedef {{title: string, timezone: string, duration: number, characters?: string, rehearsal?: {speed: number}}} ShowInfo
 * @typedef {{crossfade: number, fade: number, captions: boolean, progress: boolean, badge: boolean, still: string, language?: string, direction?: "ltr" | "rtl", hours?: "24" | "12", texts?: Record<string, string>}} DisplaySettings
 * @typedef {{type: "screening", status: "waiting" | "active" | "closed", next: number | null, next_local?: string | null, started_at: number | null}} Screening
 * @typedef {{type: "scene", route: string}} Scene
 * @typedef {{type: "fade", black: boolean, seconds: number, at: number}} Fade
 * @typedef {{word: string, start: number, end: number}} Word
 * @typedef {{type: "caption", text: string, words: Word[], at: number, until: number}} Caption
 * @typedef {{type: "typing", text: string, erase: boolean, delay: {base: number, variance: number}, at: number, seed: number, from?: string, seconds?: number | null}} Typing
 * @typedef {{type: "slider", from: number, to: number, seconds: number, at: number}} Slider
 * @typedef {{type: "run", run: string, cue: string, prompt: string, steps: number}} Run
 * @typedef {{type: "frame", run: string, cue: string, step: number, steps: number, final: boolean, present_at: number, media_type: string, url?: string}} FrameHeader
 * @typedef {{type: "run_end", run: string, outcome: "completed" | "cut" | "held"}} RunEnd
 * @typedef {{screening: Screening, scene: Scene | null, fade: Fade | null, caption: Caption | null, typing: Typing | null, slider: Slider | null, run: Run | null, frame: FrameHeader | null, picture: FrameHeader | null}} Snapshot
 * @typedef {{type: "welcome", protocol: number, screen: string, server_time: number, show: ShowInfo, display: DisplaySettings, snapshot: Snapshot}} Welcome
 * @typedef {{type: "sync", t0: number, t1: number, t2: number}} SyncReply
 * @typedef {{type: "hold"} | {type: "identify", screen?: string} | {type: "reload"}} Bare
 * @typedef {{type: "error", code: string, message: string}} ServerError
 * @typedef {Welcome | SyncReply | Screening | Scene | Fade | Caption | Typing | Slider | Run | FrameHeader | RunEnd | Bare | ServerError} Message
 */

/** @param {unknown} v */
const number = (v) => typeof v === "number" && Number.isFinite(v);
/** @param {unknown} v */
const string = (v) => typeof v === "string";
/** @param {unknown} v */
const boolean = (v) => typeof v === "boolean";

/** @typedef {(v: any) => boolean} Check */

/**
 * @param {Record<string, Check>} fields
 * @returns {Check}
 */
const object = (fields) => {
  const entries = Object.entries(fields);
  return (v) => typeof v === "object" && v !== null && entries.every(([name, check]) => check(v[name]));
};
/**
 * @param {Check} check
 * @returns {Check}
 */
const maybe = (check) => (v) => v == null || check(v);

const word = object({ word: string, start: number, end: number });
const screening = object({
  status: (v) => v === "waiting" || v === "active" || v === "closed",
  next: maybe(number),
  next_local: maybe((v) => string(v) && !Number.isNaN(Date.parse(v))),
  started_at: maybe(number),
});
/** What stands until another of its type comes; a snapshot has the last of each. */
const STANDING = {
  scene: object({ route: string }),
  fade: object({ black: boolean, seconds: number, at: number }),
  caption: object({
    text: string,
    words: maybe((v) => Array.isArray(v) && v.every(word)),
    at: number,
    until: number,
  }),
  typing: object({
    text: string,
    erase: boolean,
    delay: object({ base: number, variance: number }),
    at: number,
    seed: number,
    from: maybe(string),
    seconds: maybe(number),
  }),
  slider: object({ from: number, to: number, seconds: number, at: number }),
};
const run = object({ run: string, steps: number });
const frame = object({
  run: string,
  step: number,
  steps: number,
  final: boolean,
  present_at: number,
  media_type: string,
});

/** @type {Record<string, Check>} */
const KNOWN = {
  welcome: object({
    protocol: number,
    screen: string,
    server_time: number,
    show: object({ title: string, timezone: string, characters: maybe(string), rehearsal: maybe(object({ speed: number })) }),
    display: object({ crossfade: number }),
    snapshot: object({
      screening,
      ...Object.fromEntries(Object.entries(STANDING).map(([type, check]) => [type, maybe(check)])),
      run: maybe(run),
      frame: maybe(frame),
      picture: maybe(frame),
    }),
  }),
  sync: object({ t0: number, t1: number, t2: number }),
  screening,
  ...STANDING,
  run,
  frame,
  run_end: object({ run: string, outcome: string }),
  hold: object({}),
  identify: object({ screen: maybe(string) }),
  reload: object({}),
  error: object({ code: string, message: string }),
};

/**
 * Read one text message.
 * @param {string} text
 * @returns {Message | null} null where it is none that we know
 */
export function parse(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof message !== "object" || message === null || typeof message.type !== "string") return null;
  const check = Object.hasOwn(KNOWN, message.type) ? KNOWN[message.type] : null;
  return check?.(message) ? message : null;
}

const utf8 = new TextDecoder();

/**
 * Read one binary message: 4 bytes of big-endian header length, JSON header, picture.
 * @param {ArrayBuffer} buffer
 * @returns {{header: FrameHeader, picture: Blob} | null}
 */
export function parseFrame(buffer) {
  if (buffer.byteLength < 4) return null;
  const length = new DataView(buffer).getUint32(0);
  if (4 + length >= buffer.byteLength) return null;
  const header = parse(utf8.decode(new Uint8Array(buffer, 4, length)));
  if (header?.type !== "frame") return null;
  const picture = new Blob([new Uint8Array(buffer, 4 + length)], { type: header.media_type });
  return { header, picture };
}
