/** Defines the custom elements; the template tags load it. */
import { NotificationBanner } from "./banner.js";
import { NotificationBell } from "./bell.js";
import { NotificationInbox } from "./page.js";
import { NotificationStatus } from "./status.js";
import { NotificationToasts } from "./toasts.js";

const elements = {
  "notification-bell": NotificationBell,
  "notification-toasts": NotificationToasts,
  "notification-banner": NotificationBanner,
  "notification-inbox": NotificationInbox,
  "notification-status": NotificationStatus,
};
for (const [name, element] of Object.entries(elements)) {
  if (!customElements.get(name)) customElements.define(name, element);
}
