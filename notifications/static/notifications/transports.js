/** The ways an event can come in; see transports.d.ts. */
import { SSEParser } from "./sse-parser.js";
import { retryAfter } from "./backoff.js";

export const SUBPROTOCOL = "notifications.v1";
const ACK_BYTES = 131_072; // what the server does with one costs it as much as a message sent, so: not after each
const ACK_LEAST_MS = 60; // under the server's 20 frames a second, also while much is being replayed
const encoder = new TextEncoder();

export const TYPES = "ready notification read seen archived recalled preferences reset heartbeat bye error".split(" ");

export function address({ url, cursor, user, env }) {
  const result = new URL(url, env.base);
  for (const [name, value] of Object.entries({ cursor, for: user })) if (value) result.searchParams.set(name, value);
  return result;
}

function refusal(response, now) {
  const wait = retryAfter(response.headers.get("Retry-After"), now);
  return { reason: `HTTP ${response.status}`, status: response.status, wait };
}

export function request(config, accept, signal) {
  const { headers, credentials = "same-origin", env } = config;
  const init = { headers: { Accept: accept, ...headers }, credentials, cache: "no-store", signal };
  return env.fetch(address(config), init);
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export function sse(config, port) {
  const { env, cursor } = config;
  const abort = new AbortController();
  const parser = new SSEParser(
    {
      event(type, id, text) {
        const data = parse(text);
        if (data !== undefined) port.event(type, id, data);
      },
      retry: (ms) => port.retry(ms),
    },
    cursor,
  );
  (async () => {
    const response = await request(config, "text/event-stream", abort.signal);
    if (response.status !== 200) return port.end(refusal(response, env.now()));
    if (!/^text\/event-stream\b/i.test(response.headers.get("Content-Type") ?? "")) {
      abort.abort();
      return port.end({ reason: "blocked" });
    }
    const reader = response.body.getReader();
    for (let chunk; !(chunk = await reader.read()).done; ) parser.push(chunk.value);
    port.end({ reason: "closed" });
  })().catch(() => port.end({ reason: "network" }));
  return { close: () => abort.abort() };
}

export function eventSource(config, port) {
  const { env } = config;
  const source = new env.EventSource(address(config), {
    withCredentials: config.credentials === "include",
  });
  const abort = new AbortController();
  const listening = new Set();
  let heard = false;
  function listen(type) {
    if (listening.has(type)) return;
    listening.add(type);
    source.addEventListener(type, (event) => {
      // A connection error has the type "error" too, but no data.
      const data = event.data === undefined ? undefined : parse(event.data);
      if (data === undefined) return;
      heard = true;
      port.event(type, event.lastEventId, data);
    });
  }
  for (const type of [...TYPES, ...(config.types ?? [])]) listen(type);
  source.addEventListener("error", async (event) => {
    if (event.data !== undefined) return;
    // The browser would reconnect without jitter, and hides the status: only a request of our own can tell "log in" from
    // "try later".
    source.close();
    if (heard) return port.end({ reason: "closed" });
    try {
      const response = await request(config, "text/event-stream", abort.signal);
      abort.abort();
      port.end(response.status === 200 ? { reason: "blocked" } : refusal(response, env.now()));
    } catch {
      port.end({ reason: "network" });
    }
  });
  return {
    listen,
    close() {
      source.close();
      abort.abort();
    },
  };
}

/** A WebSocket; acknowledges what it got, so that the server knows a slow reader. */
export function websocket(config, port) {
  const { env } = config;
  const url = address(config);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new env.WebSocket(url, SUBPROTOCOL);
  let cursor = config.cursor;
  let bytes = (env.random() * ACK_BYTES) / 2; // what thousands receive together, they need not acknowledge together
  let heard = false;
  let timer = null;
  let acked = env.now();

  function ack() {
    timer = null;
    bytes = 0;
    acked = env.now();
    if (socket.readyState === 1) socket.send(JSON.stringify({ type: "ack", cursor }));
  }

  socket.onmessage = ({ data: text }) => {
    const frame = parse(text);
    if (typeof frame?.type !== "string") return;
    heard = true;
    bytes += encoder.encode(text).length;
    cursor = frame.cursor || cursor;
    if (cursor && bytes >= ACK_BYTES) timer ??= env.setTimeout(ack, Math.max(0, acked + ACK_LEAST_MS - env.now()));
    port.event(frame.type, frame.cursor, frame.data);
  };
  socket.onclose = ({ code }) => {
    env.clearTimeout(timer);
    port.end({ code, reason: heard || code >= 4000 ? "closed" : "refused" });
  };
  return {
    close() {
      env.clearTimeout(timer);
      socket.onmessage = socket.onclose = null;
      socket.close(1000);
    },
  };
}

export function polling(config, port) {
  const { env } = config;
  const abort = new AbortController();
  let { cursor } = config;
  let timer = null;
  async function ask() {
    const response = await request({ ...config, cursor }, "application/json", abort.signal);
    if (response.status !== 200) return port.end(refusal(response, env.now()));
    const answer = parse(await response.text());
    if (!Array.isArray(answer?.events)) return port.end({ reason: "blocked" });
    cursor = answer.cursor || cursor;
    for (const event of answer.events) port.event(event.type, event.cursor, event.data);
    if (!abort.signal.aborted) timer = env.setTimeout(again, answer.retry ?? 5000);
  }
  const again = () => ask().catch(() => port.end({ reason: "network" }));
  again();
  return {
    close() {
      env.clearTimeout(timer);
      abort.abort();
    },
  };
}
