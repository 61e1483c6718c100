// @ts-check
/** How fast a rehearsal goes: ×4, ×0.5 (pure). @param {number} speed */
export const times = (speed) => `×${Number(speed.toFixed(2))}`;
