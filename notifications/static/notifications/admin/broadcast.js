// Composing a broadcast: only the fields that the audience needs, a preview, and the button that fits. Without this
// script all fields and both buttons are there, and the form says what is missing.

const form = document.getElementById("broadcast_form");

if (form?.elements.namedItem("audience")) {
  const audience = form.elements.namedItem("audience");
  const row = (name) => form.querySelector(`.form-row.field-${name}`);
  const value = (name) => form.elements.namedItem(name)?.value ?? "";

  const showAudience = () => {
    for (const [name, choice] of [["group", "group"], ["users", "users"]]) {
      const fields = row(name);
      if (fields) fields.hidden = audience.value !== choice;
    }
  };

  const preview = form.querySelector(".broadcast-preview-live");
  const showPreview = () => {
    if (!preview) return;
    for (const name of ["title", "body", "url"]) {
      preview.querySelector(`.broadcast-card-${name}`).textContent = value(name).trim();
    }
    preview.querySelector(".broadcast-card").dataset.level = value("level");
    preview.hidden = false;
  };

  const send = form.querySelector("[name=_send]");
  const schedule = form.querySelector("[name=_schedule]");
  const showButtons = () => {
    if (!send || !schedule) return;
    const planned = Boolean(value("scheduled_at_0") || value("scheduled_at_1"));
    schedule.hidden = !planned;
    // Enter presses the first button, and the first is the one that stands out. Moved only if it must be: a button
    // that moves while it is being pressed is never clicked.
    const [first, second] = planned ? [schedule, send] : [send, schedule];
    first.classList.add("default");
    second.classList.remove("default");
    if (second.compareDocumentPosition(first) & Node.DOCUMENT_POSITION_FOLLOWING) second.before(first);
  };

  const show = () => {
    showAudience();
    showPreview();
    showButtons();
  };
  form.addEventListener("input", show);
  form.addEventListener("change", show);
  // The admin's own "Today" and "Now" links fill in their fields without an event.
  form.addEventListener("click", () => setTimeout(show));
  document.addEventListener("click", () => setTimeout(showButtons));
  show();
}
