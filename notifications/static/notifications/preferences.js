/** The page of preferences: ask for permission, and keep up with other tabs. */

const form = document.querySelector("form[data-choices]");
const { system } = form.elements;
const refused = document.querySelector("[data-refused] span");

/** Say so if this browser will not do what is ticked, which other devices may. */
function showRefusal(allowed = globalThis.Notification && Notification.permission !== "denied") {
  refused.hidden = !system.checked || allowed;
}

// Asked for only after a click, as browsers demand and people expect.
system.addEventListener("change", async () => {
  if (system.checked) showRefusal((await globalThis.Notification?.requestPermission()) === "granted");
  else showRefusal();
});
showRefusal();

// What was chosen at the bell gives way, or this would seem to have no effect.
form.addEventListener("submit", () => {
  const { user } = document.querySelector("[stream-url]")?.attributes ?? {};
  try {
    if (user) localStorage.removeItem(`notifications.preferences ${user.value}`);
  } catch {
    // Storage is forbidden: then nothing was kept either.
  }
});

let touched = false;
form.addEventListener("change", () => (touched = true));
// Chosen in another tab or on another device: shown here, unless somebody is choosing here.
document.addEventListener("notifications:preferences", ({ detail }) => {
  if (touched) return;
  for (const name of ["toasts", "sound", "system"]) form.elements[name].checked = detail[name];
  form.elements.transport.value = detail.transport;
  for (const box of form.querySelectorAll("[name=kinds]")) box.checked = !detail.muted.includes(box.value);
  showRefusal();
});

// Reloading does not save again, and need not say so.
if (location.search === "?saved") history.replaceState(history.state, "", location.pathname);
