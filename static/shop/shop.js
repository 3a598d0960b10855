// The shop's pages: they follow what the bell receives, and say how it receives it. Each works without this file.

const TRANSPORT_KEY = "corner-shop:transport";
const NAMES = { sse: "SSE", websocket: "WebSocket", polling: document.querySelector('.switch [value="polling"] + span')?.textContent };

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const bell = document.querySelector("notification-bell");
const messages = document.getElementById("messages");
const panel = document.getElementById("connection");

// A region marked data-live is fetched again, with the rest of its page, when something happened that it may show.
// The server stays the only place that renders an order.
function show(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  const focused = document.activeElement?.id;
  for (const region of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(region.id);
    if (!next || next.innerHTML === region.innerHTML) continue;
    const before = statuses(region);
    const after = statuses(next);
    const replace = () => {
      region.replaceChildren(...next.childNodes);
      if (next.dataset.status) region.dataset.status = next.dataset.status;
      for (const item of items(region)) {
        item.style.viewTransitionName = item.id;
        item.classList.remove("changed");
        if (before[item.id] === item.dataset.status) continue;
        void item.offsetWidth; // so that the animation begins anew
        item.classList.add("changed");
      }
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    };
    // A card that changes its column is seen to go there, where the browser can show it and the person wants it.
    const moves = Object.keys(after).some((id) => before[id] !== after[id]);
    if (moves && document.startViewTransition && !calm.matches && document.visibilityState === "visible") {
      for (const item of items(region)) item.style.viewTransitionName = item.id;
      document.startViewTransition(replace);
    } else {
      replace();
    }
  }
}

function items(region) {
  return [...(region.matches("[data-status]") ? [region] : []), ...region.querySelectorAll("[data-status]")];
}

function statuses(region) {
  return Object.fromEntries(items(region).map((item) => [item.id, item.dataset.status]));
}

let asked = 0;
let shown = 0;

/** Fetch a page and show what is live on it, unless what was asked for later has come already. */
async function load(address, options) {
  asked += 1;
  const number = asked;
  const response = await fetch(address, options);
  if (new URL(response.url).pathname !== location.pathname) return response;
  const html = await response.text();
  if (number > shown && html) {
    shown = number;
    show(html);
  }
  return response;
}

let timer;
let running = false;
let again = false;

// Several events in a row cost one request; an event that comes while one is under way, one more.
function refresh() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      await load(location.href);
    } catch {
      // Offline: the bell comes back by itself, and with it the next event.
    } finally {
      running = false;
      if (again) {
        again = false;
        refresh();
      }
    }
  }, 100);
}

document.addEventListener("notifications:notification", (event) => {
  if (event.detail.kind?.startsWith("order.")) refresh();
});
document.addEventListener("notifications:reset", refresh);
addEventListener("pageshow", (event) => {
  if (event.persisted) refresh();
});

// A form marked data-quiet leaves the page, and so its stream, where they are.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("form[data-quiet]")) return;
  event.preventDefault();
  const data = new FormData(form, event.submitter);
  event.submitter?.setAttribute("disabled", "");
  try {
    const response = await load(form.action, { method: "POST", body: data });
    if (!response.ok) location.reload(); // logged out meanwhile, or no longer allowed: the page will say
    else if (new URL(response.url).pathname !== location.pathname) location.assign(response.url);
  } catch {
    const note = document.createElement("p");
    note.className = "note warning";
    note.textContent = messages.dataset.failed;
    messages.replaceChildren(note);
  } finally {
    event.submitter?.removeAttribute("disabled");
  }
});

// How this tab is connected, and the choice of another way, kept for this browser.
function clock(date) {
  return date.toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}

function put(name, text) {
  document.getElementById(`connection-${name}`).textContent = text;
}

function remembered() {
  try {
    return localStorage.getItem(TRANSPORT_KEY);
  } catch {
    return null; // storage may be forbidden
  }
}

function remember(transport) {
  try {
    localStorage.setItem(TRANSPORT_KEY, transport);
  } catch {
    // Then the choice lasts as long as this page.
  }
}

// `notifications:state` tells what the connection is doing; readyState is as in EventSource and WebSocket.
document.addEventListener("notifications:state", ({ detail: state }) => {
  if (!panel) return;
  const open = state.readyState === 1;
  panel.dataset.state = open ? "open" : state.readyState === 2 ? "closed" : state.retryAt ? "waiting" : "connecting";
  const name = NAMES[state.transport] ?? state.transport ?? "–";
  put("transport", state.fallback ? `${name} (${state.fallback})` : name);
  put("latency", open && state.latency != null ? `${state.latency} ms` : "–");
  panel.querySelector("[data-shared]").hidden = !(open && state.shared && !state.leading);
  put("since", open && state.since ? clock(new Date(state.since)) : "–");
  if (state.lastEvent) put("last", clock(new Date(state.lastEvent)));
});
for (const type of ["notification", "read", "seen", "archived", "recalled", "reset", "heartbeat"]) {
  document.addEventListener(`notifications:${type}`, () => panel && put("last", clock(new Date())));
}

if (bell && panel) {
  panel.dataset.state = "connecting";
  for (const part of panel.querySelectorAll(".state, dl, fieldset")) part.hidden = false;
  const choice = remembered() ?? "auto";
  if (choice !== "auto") bell.setAttribute("transport", choice);
  for (const radio of panel.querySelectorAll('[name="transport"]')) {
    radio.checked = radio.value === choice;
    radio.addEventListener("change", () => {
      remember(radio.value);
      bell.setAttribute("transport", radio.value);
    });
  }
}
