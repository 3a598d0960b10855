/**
 * What reaches a person whose eyes are elsewhere: title, icon and the app's badge; for those who asked for it, a sound
 * and the system's own notifications. What was chosen at the bell is this device's: no sound at work.
 */
import { capped, safeURL } from "./rows.js";

const PREFIX = /^\([^()]{1,6}\) /;

/** Show how many are new, where the person can see it from another tab. */
export function showCount(unseen, favicon) {
  const title = document.title.replace(PREFIX, "");
  const marked = unseen ? `(${capped(unseen)}) ${title}` : title;
  if (marked !== document.title) document.title = marked;
  (unseen ? navigator.setAppBadge?.(unseen) : navigator.clearAppBadge?.())?.catch(() => {});
  if (!favicon) return;
  const mine = document.querySelector("link[data-notifications]");
  const others = document.querySelectorAll('link[rel~="icon"]:not([data-notifications])');
  // Browsers take the last icon: the site's own are put aside and back.
  if (unseen && !mine) {
    const link = Object.assign(document.createElement("link"), { rel: "icon", href: favicon });
    link.dataset.notifications = "";
    for (const other of others) other.rel = "x-icon";
    document.head.append(link);
  } else if (!unseen && mine) {
    mine.remove();
    for (const other of document.querySelectorAll('link[rel="x-icon"]')) other.rel = "icon";
  }
}

const SWITCHES = ["toasts", "sound", "system"];

/** What the person chose for all devices, as the element's attributes say, and in this browser otherwise. */
export class Preferences {
  #element;
  #key;

  constructor(element) {
    this.#element = element;
    this.#key = `notifications.preferences ${element.getAttribute("user") ?? ""}`;
  }

  get all() {
    const own = this.#own;
    const standard = (name) => (this.#element.getAttribute(name) ?? (name === "toasts" ? "on" : "off")) === "on";
    return Object.fromEntries(SWITCHES.map((name) => [name, own[name] ?? standard(name)]));
  }

  /** Chosen elsewhere, for all devices. */
  follow(chosen) {
    for (const name of SWITCHES) this.#element.setAttribute(name, chosen[name] ? "on" : "off");
  }

  /** Keep a choice for this browser; the browser may refuse the system's notifications. */
  async set(name, value) {
    if (name === "system" && value) value = (await globalThis.Notification?.requestPermission()) === "granted";
    if (name === "sound" && value) beep();
    try {
      localStorage.setItem(this.#key, JSON.stringify({ ...this.#own, [name]: value }));
    } catch {
      // Storage is forbidden: then the choice can not be kept.
    }
  }

  get #own() {
    try {
      return JSON.parse(localStorage.getItem(this.#key)) ?? {};
    } catch {
      return {};
    }
  }
}

let audio = null;

/** Two soft tones: a sound file would be one more thing to load and to license. */
function beep() {
  try {
    audio ??= new AudioContext();
    for (const [at, pitch] of [
      [0, 660],
      [0.12, 880],
    ]) {
      const [tone, volume] = [audio.createOscillator(), audio.createGain()];
      const start = audio.currentTime + at;
      tone.frequency.value = pitch;
      volume.gain.setValueAtTime(0.08, start);
      volume.gain.exponentialRampToValueAtTime(0.001, start + 0.25);
      tone.connect(volume).connect(audio.destination);
      tone.start(start);
      tone.stop(start + 0.25);
    }
  } catch {
    // No sound device, or not before the first click.
  }
}

/** Tell of a notification by sound or system; `elsewhere`: no tab of this site is looked at. */
export function alertPerson(item, { sound, system }, elsewhere, onclick) {
  if (sound) beep();
  if (!system || !elsewhere || globalThis.Notification?.permission !== "granted") return;
  try {
    const { title, body, tag, id } = item;
    // A tag replaces the older one, as in the inbox.
    const shown = new Notification(title, { body, tag: tag || `notification-${id}`, lang: document.documentElement.lang });
    shown.onclick = () => {
      window.focus();
      onclick();
      const address = safeURL(item.url);
      if (address) location.assign(address);
    };
  } catch {
    // Where only service workers may: then not.
  }
}
