// @ts-check
/** What the Studio answers and tells, as far as this page reads it. */

/** Why something failed, waits or is paused. @typedef {{code: string, message: string, field?: string}} Problem */

/** What a picture, or several, cost. @typedef {{amount: number | null, currency: string}} Cost */

/**
 * One picture of a job.
 * @typedef {object} Item
 * @property {number} n its place in the job, from 0
 * @property {"queued" | "running" | "ready" | "failed" | "cancelled"} status
 * @property {number | null} [seed]
 * @property {string | null} [take] id of the take that it makes
 * @property {Problem | null} [error]
 * @property {string | null} [engine] what draws it, or did
 * @property {string | null} [url] of the finished picture
 * @property {string | null} [thumb] of a small one
 */

/** What was asked for. @typedef {{prompt?: string, program?: string | null, style?: string | null, speed?: "full" | "fast", n?: number, seed?: number | null, cue?: string | null, width?: number, height?: number, recipe?: {width?: number, height?: number}}} Asked */

/**
 * Something that was asked for, and what has become of it.
 * @typedef {object} Job
 * @property {string} id
 * @property {string} kind
 * @property {"queued" | "processing" | "completed" | "failed" | "cancelled"} status
 * @property {number | null} [progress] 0 to 1
 * @property {number | null} [position] in the queue, 1 is next
 * @property {number | null} [eta_seconds] null where nobody knows
 * @property {number} total
 * @property {number} done
 * @property {number} failed
 * @property {boolean} [partial]
 * @property {Item[]} items
 * @property {number} [priority] 0 to 9
 * @property {Cost | null} [cost]
 * @property {Problem | null} [error]
 * @property {string | number | null} created_at
 * @property {string | number | null} [started_at]
 * @property {string | number | null} [completed_at]
 * @property {Asked} [request]
 */

/** An engine's place in the queue; of somebody else's work, only that there is some. @typedef {{engine: string, working_on: {job: string | null, n: number | null, progress?: number} | null, rests: Problem | null}} Slot */

/** Why the queue stands still; `by` is who had it do so, null where it does by itself. @typedef {{code: string, message: string, by?: string | null}} Pause */

/** @typedef {{paused: Pause | null, slots: Slot[], waiting: number, running: number}} Queue */

/** @typedef {{hours: number, jobs: Record<string, number>, pictures: number, success_rate: number | null, p50_seconds: number | null, p95_seconds: number | null, cost: number | null, currency?: string}} Stats */

/** How a family of pictures is drawn. @typedef {{name: string, width: number, height: number, steps: number, fast: boolean, image_to_image?: boolean}} Program */

/** @typedef {{name: string, words: string}} Style */

/** Who somebody is here. @typedef {{id: string, name: string, role: "artist" | "client"}} Member */

/** What it would take. @typedef {{pictures?: number, seconds?: number | null, cost?: number | Cost | null, currency?: string}} Estimate */

/** Something that happened to a job. @typedef {{type: "event", id: number, event: string, job: string, at: number, data: any}} Happening */

/** A picture on its way. @typedef {{type: "step", job: string, n: number, take: string, step: number, steps: number, url: string}} Step */

export {};
