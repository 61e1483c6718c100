// @ts-check
/**
 * Where things of this server are. It tells paths such as `/frames/…`; a reverse proxy may show it below a path of its
 * own, of which it need not know. So everything is looked for beside the page, which was found there.
 */

/**
 * @param {string} path as the server tells it
 * @returns {string}
 */
export function here(path) {
  return new URL(path.replace(/^\/+/, ""), document.baseURI).href;
}

/**
 * @param {string} path of a socket
 * @returns {string}
 */
export function socket(path) {
  const address = new URL(here(path));
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return address.href;
}
