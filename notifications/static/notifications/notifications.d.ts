/** Which way events come in; "auto" is the best that gets through. */
export type Transport = "sse" | "websocket" | "polling";

/** What every notification carries; sites put their own into `data`. */
export interface Notification<Data = Record<string, unknown>> {
  id: number;
  kind: string;
  level: "info" | "success" | "warning" | "error";
  title: string;
  body: string;
  /** A path on this site, or an http(s) address. Check it with `safeURL()` before you make it a link. */
  url: string;
  data: Data;
  tag: string;
  /** ISO 8601 */
  created_at: string;
  expires_at?: string;
  actor?: { type: string; id: string };
  target?: { type: string; id: string };
  /** The log it came from and its number there; absent in the inbox's answers. */
  topic?: string;
  seq?: number;
}

/** How many are unread and how many are new; 100 means "more than 99". */
export interface Counts {
  unread: number;
  unseen: number;
}

/** The data of each type of event; a site adds its own by declaration merging. */
export interface NotificationEvents {
  ready: {
    cursor: string;
    unread: number | null;
    heartbeat: number;
    connection: string;
    transport: Transport;
    /** The number in each topic after which it begins; over polling only. */
    positions?: Record<string, number>;
  };
  notification: Notification;
  read: ({ ids: number[]; read: boolean } | { all: true; before: number }) & Counts;
  seen: { all: true; before: number };
  archived: { ids: number[]; archived: boolean } & Counts;
  recalled: { ids: number[] };
  preferences: {
    muted: string[];
    transport: Transport | "auto";
    toasts: boolean;
    sound: boolean;
    system: boolean;
  } & Counts;
  /** Events were missed: what is shown has to be loaded again. */
  reset: { topic: string; reason: string };
  heartbeat: Record<string, never>;
  error: { code: number; message: string };
}

/** An event as the protocol has it. */
export interface Envelope<Data = unknown> {
  type: string;
  cursor: string;
  data: Data;
}

/** How the page is connected. */
export interface State {
  /** CONNECTING (0), OPEN (1), CLOSED (2) */
  readyState: 0 | 1 | 2;
  transport: Transport | null;
  /** What the connection is doing, or why it ended: "open", "paused", "unauthorized", "HTTP 503" … */
  reason: string;
  /** Milliseconds since 1970: since when it is so; when the last event came; when it tries again. */
  since?: number | null;
  lastEvent?: number | null;
  retryAt?: number | null;
  /** Milliseconds from the attempt to `ready`. */
  latency?: number | null;
  /** Why a better transport is not used: "websocket: refused". */
  fallback?: string | null;
  /** The server's name for the connection, for its log. */
  connection?: string;
  /** Whether this tab holds the connection, and whether it does so for other tabs as well. */
  leading: boolean;
  shared: boolean;
}

export interface ConnectOptions {
  streamURL?: string;
  socketURL?: string;
  eventsURL?: string;
  inboxURL?: string;
  /** Where to begin; default: now. */
  cursor?: string;
  /** "auto" (default) falls back along `transports`; one of them is used whatever happens. */
  transport?: Transport | "auto";
  /** The order to try; default: sse, websocket, polling. */
  transports?: Transport[];
  /** Sent with each request, e.g. `Authorization`. Then the connection is not shared, and is no WebSocket. */
  headers?: Record<string, string>;
  credentials?: RequestCredentials;
  /**
   * For whom the page was made: the server's opaque key, which elements carry as their attribute `user`. It goes with
   * each request, and the server refuses (401, close code 4401) when somebody else has logged in since. Tabs of the
   * same person share a connection.
   */
  user?: string;
  /** Whether tabs share one connection; default true. */
  share?: boolean;
  /** Milliseconds in the background after which the connection rests; 0: never; default: 15 minutes. */
  hiddenAfter?: number;
  csrfToken?: string;
  signal?: AbortSignal;
  /** Ways of your own in place of those of transports.js, by name. */
  openers?: Partial<Record<Transport, Opener>>;
}

/** A way to receive events: see transports.js. */
export type Opener = (
  config: { url: string; cursor: string; user?: string; headers?: Record<string, string> },
  port: Port,
) => Link;
export interface Port {
  event(type: string, cursor: string, data: unknown): void;
  /** The first ceiling of waits from now on, if it is more than a second; until a `bye`, which is for that once. */
  retry(ms: number): void;
  /** `wait`: the milliseconds that the server asked for. */
  end(info: { reason: string; status?: number; code?: number; wait?: number | null }): void;
}
export interface Link {
  close(): void;
  listen?(type: string): void;
}

/** One stream of events, whatever carries it; duplicates are dropped. Several on a page share what they can. */
export class NotificationClient extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSED: 2;
  constructor(options: ConnectOptions);
  readonly readyState: 0 | 1 | 2;
  readonly state: State;
  readonly transport: Transport | null;
  /** Where the stream is; opaque. */
  readonly cursor: string;
  /** Stay connected while nobody looks at the page, to tell a person by sound or system. */
  stayAwake: boolean;

  /**
   * Call `fn` for each event of a type, each notification of a kind, or all that begin so ("order.*").
   * @returns a function that ends it
   */
  on<Type extends keyof NotificationEvents>(
    type: Type,
    fn: (data: NotificationEvents[Type], envelope: Envelope<NotificationEvents[Type]>) => void,
    options?: { signal?: AbortSignal },
  ): () => void;
  on<Data = Notification>(
    name: string,
    fn: (data: Data, envelope: Envelope<Data>) => void,
    options?: { signal?: AbortSignal },
  ): () => void;

  /** Be carried by another transport, or by the best one again, from the same place. */
  use(transport: Transport | "auto"): void;
  /** End it; the connection ends with the last client of the page. */
  close(): void;
  [Symbol.asyncIterator](): AsyncGenerator<Envelope, void, undefined>;
}

/**
 * Open the stream of the person who is logged in, or share the one that this page, or another tab, has open.
 * Without options: what the page's `<notification-bell>` says.
 */
export function connect(options?: ConnectOptions): NotificationClient;

/** Return what an element's attributes say, as options for `connect()`. */
export function optionsFrom(element: Element): ConnectOptions;
