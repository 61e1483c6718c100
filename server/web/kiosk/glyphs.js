// @ts-check
/**
 * Which characters of the show this browser has no font for. It draws a box for each, and says nothing: so each is
 * drawn unseen, in the very fonts of the wall, and compared with one that no font has.
 */

const SIZE = 40;
/** Characters that nobody has given a meaning: what is drawn for them is what is drawn for want of a glyph. */
const NOBODYS = ["\u{10FFFD}", "\u{F8FFD}"];
/** Characters measured in one go, so that no frame waits. */
const AT_ONCE = 24;
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
    for (let start = 0; start < all.length; start += AT_ONCE) {
      await idle();
      for (const character of all.slice(start, start + AT_ONCE)) if (draw(character) === nothing) found.add(character);
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
    return context.getImageData(0, 0, SIZE, SIZE).data.join();
  };
}

function idle() {
  return new Promise((go) => {
    if ("requestIdleCallback" in window) requestIdleCallback(go, { timeout: 500 });
    else setTimeout(go, 20);
  });
}
