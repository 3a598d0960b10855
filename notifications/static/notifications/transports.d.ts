import type { ConnectOptions, Link, Port } from "./notifications.js";

/**
 * The ways an event can come in. Each opens one connection at once and reports to its port; it never retries: that is
 * the business of `connect()`. What `end()` says of the way itself, rather than of the server or the line: "refused",
 * the socket was not let through; "blocked", something else answered (a proxy's page).
 */

export interface Config extends Pick<ConnectOptions, "user" | "headers" | "credentials"> {
  url: string;
  /** Begin after it; empty: now. */
  cursor: string;
  /** The site's own types of events, of which `EventSource` has to be told. */
  types?: Iterable<string>;
  /** The platform (`fetch`, `WebSocket`, …), which tests replace. */
  env: object;
}

/** The name of the protocol that a WebSocket asks for. */
export const SUBPROTOCOL: "notifications.v1";
/** The protocol's own types of events and those of the inbox; `EventSource` hears only types it was told of. */
export const TYPES: readonly string[];

/** Where to ask for what comes after `cursor`, as `user`: the server refuses when somebody else has logged in since. */
export function address(config: Config): URL;
/** Ask for it, with the headers and credentials of the options. */
export function request(config: Config, accept: string, signal?: AbortSignal): Promise<Response>;

/**
 * Server-sent events read with `fetch`. Unlike `EventSource` it sees the status and Retry-After, may send headers, and
 * hears the site's own types of events without being told their names.
 */
export function sse(config: Config, port: Port): Link;
/** Server-sent events by the browser's own `EventSource`. */
export function eventSource(config: Config, port: Port): Link;
/** A WebSocket; acknowledges what it got, so that the server knows a slow reader from a fast one. */
export function websocket(config: Config, port: Port): Link;
/** Ask again and again; the last resort, which gets through everything that lets a page through. */
export function polling(config: Config, port: Port): Link;
