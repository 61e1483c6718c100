// @ts-check
/**
 * Which characters of the show this browser has no font for. It draws a box for each, and says nothing: so each is
 * drawn unseen, in the very fonts of the wall, and compared with one that no font has.
 */

const SIZE = 40;
/** Characters that nobody has given a meaning: what is drawn for them is what is drawn for want of a glyph. */
const NOBODYS = ["\u{10FFFD}", "\u{F8FFD}"];
/** Milliseconds of measuring in one go where the browser is never idle: a picture may be fading in meanwhile. */
const AT_ONCE = 4;
/** How many are named; how many more there are is told as a number. */
const NAMED = 48;

/**
 * @param {string} characters each of them once
 * @param {string[]} families the font stacks in which they are set
 * @returns {Promise<string[]>} those that cannot be drawn; none, too, where that cannot be found out
 */
export async function missing(characters, families) {
  /** @type {Set<string>} */
  const found = new Set();
  const all = Array.from(characters);
  for (const family of families) {
    const font = `${SIZE * 0.6}px ${family}`;
    try {
      await document.fonts.load(font, characters);
    } catch {
      // Then it is drawn by what is there, which is what the wall does, too.
    }
    const draw = brush(font);
    const [nothing, nothingElse] = NOBODYS.map(draw);
    if (nothing !== nothingElse) return []; // a browser whose boxes have numbers in them
    let until = 0;
    for (const character of all) {
      if (performance.now() >= until) {
        const left = await idle();
        until = performance.now() + left;
      }
      if (draw(character) === nothing) found.add(character);
    }
  }
  return all.filter((character) => found.has(character));
}

/**
 * The message that tells it to the server.
 * @param {string[]} found
 */
export function report(found) {
  return { type: "glyphs", missing: found.slice(0, NAMED).join(""), count: found.length };
}

/** @param {string} font @returns {(character: string) => string} what a character looks like, to be compared */
function brush(font) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIZE;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  context.font = font;
  context.textBaseline = "middle";
  return (character) => {
    context.clearRect(0, 0, SIZE, SIZE);
    context.fillText(character, SIZE / 4, SIZE / 2);
    return new Uint32Array(context.getImageData(0, 0, SIZE, SIZE).data.buffer).join();
  };
}

/** Wait until no frame waits for us. @returns {Promise<number>} milliseconds for which that is so */
function idle() {
  return new Promise((go) => {
    if ("requestIdleCallback" in window) requestIdleCallback((left) => go(Math.max(AT_ONCE, left.timeRemaining())), { timeout: 500 });
    else setTimeout(go, 20, AT_ONCE);
  });
}
