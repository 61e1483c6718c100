// @ts-check
/**
 * Where the picture hangs and where the words go (pure). Everything in CSS pixels.
 *
 * A picture that almost fits the wall fills it: a strip of three black pixels is not a frame but a
 * mistake, so up to 1.5 % of mismatch is cropped. Otherwise the whole picture is shown, and the words stand on the black
 * around it where that has room for them: on a portrait wall the picture hangs a little above the middle, as pictures do,
 * and the words are below it; a square picture on a wide wall hangs at its right edge, and the words are beside it, as on
 * a spread. Elsewhere they lie over the picture.
 */

const CROP = 0.015;
/** Of the free height, this much is above the picture. */
const ABOVE = 0.38;
/** The words move out of the picture when they find this much of the wall's height below it. */
const ROOM = 0.2;
/** Or this much of its width beside it. */
const COLUMN = 0.34;

/** @typedef {{left: number, top: number, width: number, height: number, words: "over" | "below" | "beside"}} Place */

/**
 * @param {number} width of the wall
 * @param {number} height of the wall
 * @param {number} aspect of the picture, width over height
 * @returns {Place}
 */
export function place(width, height, aspect) {
  const wall = width / height;
  const near = Math.abs(aspect / wall - 1) <= CROP;
  const wide = near ? aspect < wall : aspect > wall;
  const w = wide ? width : height * aspect;
  const h = wide ? width / aspect : height;
  const free = height - h;
  if (free * (1 - ABOVE) >= height * ROOM) return { left: 0, top: free * ABOVE, width: w, height: h, words: "below" };
  if (width - w >= width * COLUMN) return { left: width - w, top: 0, width: w, height: h, words: "beside" };
  return { left: (width - w) / 2, top: free / 2, width: w, height: h, words: "over" };
}
