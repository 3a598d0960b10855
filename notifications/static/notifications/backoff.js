/**
 * How long to wait before the next attempt: full jitter below a ceiling that doubles. Without the jitter all browsers
 * would come back in the same instant, each time.
 */
export class Backoff {
  constructor({ base = 1000, cap = 30_000, random = Math.random } = {}) {
    Object.assign(this, { base, cap, random, attempt: 0 });
  }

  next() {
    return this.random() * Math.min(this.cap, this.base * 2 ** Math.min(this.attempt++, 30));
  }

  reset() {
    this.attempt = 0;
  }
}

export function retryAfter(value, now = Date.now()) {
  if (!value) return null;
  if (/^\s*\d+\s*$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? null : Math.max(0, date - now);
}
