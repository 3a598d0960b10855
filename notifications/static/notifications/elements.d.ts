import type { Inbox } from "./inbox.js";
import type { NotificationClient } from "./notifications.js";

export class NotificationElement extends HTMLElement {
  /** Null while the element is on no page. */
  readonly client: NotificationClient | null;
  readonly inbox: Inbox | null;
}
export class NotificationBell extends NotificationElement {
  readonly open: boolean;
  show(): void;
}
export class NotificationToasts extends NotificationElement {
  readonly muted: boolean;
}

declare global {
  interface HTMLElementTagNameMap {
    "notification-bell": NotificationBell;
    "notification-toasts": NotificationToasts;
    "notification-banner": NotificationElement;
    "notification-inbox": NotificationElement;
    "notification-status": NotificationElement;
  }
}
