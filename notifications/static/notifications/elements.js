/** Defines the custom elements; the template tags load it. */
import { NotificationBell } from "./bell.js";
import { NotificationToasts } from "./toasts.js";

const elements = {
  "notification-bell": NotificationBell,
  "notification-toasts": NotificationToasts,
};
for (const [name, element] of Object.entries(elements)) {
  if (!customElements.get(name)) customElements.define(name, element);
}
