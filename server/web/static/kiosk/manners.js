// @ts-check
/** What a browser does of its own and a wall must not: cursors, menus, selections, sleep. */

const CURSOR = 2000;

export function behave() {
  const root = document.documentElement;

  for (const name of ["contextmenu", "selectstart", "dragstart", "drop", "dragover"]) {
    addEventListener(name, (event) => event.preventDefault());
  }
  // Pinching and wheeling with Ctrl would enlarge the page, and nobody there to set it right.
  addEventListener("wheel", (event) => event.ctrlKey && event.preventDefault(), { passive: false });
  addEventListener("gesturestart", (event) => event.preventDefault());

  let idle = 0;
  const moved = () => {
    root.dataset.cursor = "";
    clearTimeout(idle);
    idle = setTimeout(() => delete root.dataset.cursor, CURSOR);
  };
  addEventListener("pointermove", (event) => event.pointerType === "mouse" && moved());

  const toggle = () => {
    const done = document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen({ navigationUI: "hide" });
    done?.catch(() => {}); // not allowed here, or not possible: then not
  };
  addEventListener("click", () => !document.fullscreenElement && toggle());
  addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() === "f" && !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat) toggle();
  });

  stayAwake();
}

/** Keep the display from sleeping, where the browser can (over https, or on the machine itself). */
function stayAwake() {
  if (!("wakeLock" in navigator)) return;
  /** @type {WakeLockSentinel | null} */
  let lock = null;
  const take = async () => {
    if (document.visibilityState !== "visible" || (lock && !lock.released)) return;
    try {
      lock = await navigator.wakeLock.request("screen");
      lock.addEventListener("release", () => setTimeout(take, 1000));
    } catch {
      // Refused (a low battery, a policy): asked again at the next occasion.
    }
  };
  document.addEventListener("visibilitychange", take);
  addEventListener("pointerdown", take);
  setInterval(take, 60_000);
  take();
}
