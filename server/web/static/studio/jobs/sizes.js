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
  const size = job.width && job.height ? { width: job.width, height: job.height } : programs.get(job.request?.program ?? "") ?? [...programs.values()][0];
  return size ? size.width / size.height : 16 / 9;
}
