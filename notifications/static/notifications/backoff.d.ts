/** How long to wait before the next attempt: full jitter below a ceiling that doubles. In milliseconds. */
export class Backoff {
  constructor(options?: { base?: number; cap?: number; random?: () => number });
  attempt: number;
  /** Return how long to wait before the next attempt, and count it. */
  next(): number;
  reset(): void;
}
/** Return what a Retry-After header asks for in milliseconds: seconds or a date; null when it says nothing usable. */
export function retryAfter(value: string | null, now?: number): number | null;
