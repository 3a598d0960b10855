import type { ConnectOptions, Notification, NotificationClient } from "./notifications.js";

export type Action = "read" | "unread" | "archive" | "unarchive" | "clicked";
export interface Item extends Notification {
  read: boolean;
  seen: boolean;
  archived: boolean;
}

/** Counts stop here: "more than 99". */
export const MANY: 100;

/**
 * What a page knows of a person's inbox. What the person does shows at once, is told to the server when there is a
 * line, also after the tab was closed, and is taken back if the server refuses.
 *
 * Events: `change` (detail: added, changed, removed – lists of ids), `counts`, `reset` (load again), `rejected`.
 */
export class Inbox extends EventTarget {
  /** `unread` and `unseen`: the counts that the page was rendered with. */
  constructor(client: NotificationClient, options: ConnectOptions & { unread?: number; unseen?: number });
  readonly items: Map<number, Item>;
  readonly kinds: string[];
  readonly unread: number | null;
  readonly unseen: number | null;
  /** How many actions the server has not confirmed. */
  readonly pending: number;
  /** Load a page of the inbox, or the one that `next` names; rejects when the server can not be reached or refuses. */
  load(view?: {
    status?: "all" | "unread" | "archived";
    kind?: string;
    next?: string | null;
  }): Promise<{ ids: number[]; next: string | null }>;
  /** Do something to some notifications: here at once, there when possible. */
  act(action: Action, ids: number[]): void;
  /**
   * Mark all read that the person knows of, those included that this page never loaded: up to `newest`, an id, or to the
   * newest that came or was loaded. Where there is none the inbox is loaded first; without a line that is `rejected`.
   */
  readAll(newest?: number): void;
  /** The person has looked: nothing is new any more, though it may be unread. */
  see(): void;
  close(): void;
}
