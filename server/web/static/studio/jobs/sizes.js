// @ts-check
/** How large pictures will be, before there are any: their places have that size from the beginning. */

/** Of each program, by name. @type {Map<string, {width: number, height: number}>} */
const programs = new Map();

/** @param {import("../types.js").Program[]} offered */
export function remember(offered) {
  for (const { name, width, height } of offered) programs.set(name, { width, height });
}

/** Width by height. @param {import("../types.js").Job} job */
export function ratio(job) {
  const asked = job.request;
  const size = sized(asked) ?? sized(asked?.recipe) ?? programs.get(asked?.program ?? "") ?? [...programs.values()][0];
  return size ? size.width / size.height : 16 / 9;
}

/** What says both. @param {{width?: number | null, height?: number | null} | null} [what] */
function sized(what) {
  return what?.width && what.height ? { width: what.width, height: what.height } : undefined;
}
