// Makes the page livelier; it works without. Here: the theme, the history, the list, and the reasons.

import { card, mark, reasons, seen } from "./cards.js";
import { startChat } from "./chat.js";
import { ask, clear, show, understood } from "./server.js";

const $ = (id) => document.getElementById(id);
const strip = document.querySelector("#history .strip");
const grid = $("grid");
const MOST = 100; // items of a list
const items = () => [...(strip?.children ?? [])].map((one) => one.dataset.id);

// ---- Light and dark: the cookie is the server's to read, so that no page begins in the wrong one.

document.querySelector("form.theme").addEventListener("submit", (event) => {
  event.preventDefault();
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  const safe = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=strict${safe}`;
});

// ---- The history: its form would load the page anew; here the list changes in its place.

let wished = false; // the list answers a turn of the conversation
let asking; // the request for a list that is under way

if (grid) {
  $("history").addEventListener("submit", (event) => {
    event.preventDefault();
    const { name, value } = event.submitter;
    const place = [...grid.children].indexOf(event.submitter.closest(".card"));
    const link = event.submitter.closest(".card");
    if (name === "add") strip.append(seen(described(link)));
    else [...strip.children].find((one) => one.dataset.id === value)?.remove();
    remember();
    const turned = wished ? Promise.resolve() : renew();
    turned.then(() => refocus(place));
  });
  addEventListener("popstate", () => location.reload());
  $("grid-back").addEventListener("click", (event) => {
    event.preventDefault();
    chat.leave();
    grid.dataset.wish = "";
    remember();
    renew().then(() => $("grid-title").focus());
  });
}

/** What a card says of its item. */
function described(root) {
  const image = root.querySelector("img")?.getAttribute("src");
  return { id: root.dataset.id, title: root.querySelector(".title").textContent, image };
}

/** The address holds the history: it can be kept, shared, and gone back to. */
function remember() {
  const own = items();
  const query = new URLSearchParams(own.map((id) => ["h", id]));
  if (grid.dataset.wish) query.set("q", grid.dataset.wish);
  history.pushState(null, "", query.size ? `/?${query}` : "/");
  $("history-empty").hidden = own.length > 0;
  document.querySelector(".someone")?.toggleAttribute("hidden", own.length > 0);
  relink();
}

/** Every link of the page takes the history along. */
function relink() {
  const own = items();
  for (const link of document.querySelectorAll('a[href^="/"]:not([href^="/login"])')) {
    const url = new URL(link.href);
    url.searchParams.delete("h");
    for (const id of own) url.searchParams.append("h", id);
    link.href = url.pathname + url.search + url.hash;
  }
  for (const one of grid.children) mark(one, own.includes(one.dataset.id));
}

/** Asks for the list of the history as it is now. */
async function renew() {
  const own = items();
  const { wish, first, shown } = grid.dataset;
  const body = { history: own, k: Number(shown) };
  if (wish) body.query = wish;
  if (!own.length && !wish && first) body.system = first;
  asking?.abort();
  asking = new AbortController();
  clear($("grid-trouble"));
  grid.ariaBusy = "true";
  try {
    const answer = await ask("/v1/recommendations", { body, signal: asking.signal });
    const { recommendations } = await answer.json();
    const title = $("grid-title").dataset[own.length ? "some" : "first"];
    list(recommendations, wish ? `For “${wish}”` : title, { wish: Boolean(wish) });
  } catch (error) {
    const trouble = understood(error);
    if (trouble.name !== "AbortError") show($("grid-trouble"), trouble, renew);
  } finally {
    grid.ariaBusy = "false";
  }
}

/** Shows a list. */
function list(recommendations, title, { wish, more = true }) {
  const own = items();
  grid.replaceChildren(...recommendations.map((one) => card(one, own)));
  $("grid-title").textContent = title;
  $("grid-back").hidden = !wish;
  $("grid-empty").hidden = recommendations.length > 0;
  const shown = Number(grid.dataset.shown);
  $("grid-more").hidden = !more || recommendations.length < shown || shown >= MOST;
  const next = new URL(location);
  next.searchParams.set("n", Math.min(shown + 24, MOST));
  $("grid-more").href = next.pathname + next.search;
  $("grid-status").textContent = `${title}: ${recommendations.length} items`;
  relink();
}

/** A list that was clicked in is another one now: whoever came by keyboard stays in its place. */
function refocus(place) {
  if (document.activeElement && document.activeElement !== document.body) return;
  const inGrid = grid.children[Math.min(place, grid.children.length - 1)]?.querySelector(".add");
  (inGrid ?? strip.querySelector(".drop") ?? $("grid-title")).focus({ preventScroll: true });
}

// ---- Reasons: they open by keyboard and click as <details> do, and while a mouse rests on them.

const REST = 250; // ms

/** Opens a card's reasons where there is most room; on a phone the style sheet places them. */
function place(details) {
  const panel = details.querySelector(".panel");
  panel.classList.remove("up", "left");
  panel.style.maxHeight = "";
  if (getComputedStyle(panel).position === "fixed") return;
  const head = document.querySelector(".top").offsetHeight;
  const { top, bottom, right } = panel.getBoundingClientRect();
  const [above, below] = [details.getBoundingClientRect().top - head, innerHeight - top];
  const up = bottom > innerHeight && above > below;
  panel.classList.toggle("up", up);
  panel.classList.toggle("left", right > innerWidth);
  panel.style.maxHeight = `${Math.max((up ? above : below) - 12, 160)}px`;
}

async function explain(details) {
  place(details);
  const link = details.querySelector('[data-slot="why"]');
  if (!link) return; // told already
  try {
    reasons(details, await (await ask(link.getAttribute("href"))).json());
    place(details);
  } catch (error) {
    link.parentElement.textContent = understood(error).message;
  }
}

document.addEventListener("toggle", (event) => {
  const details = event.target;
  if (!details.matches("details.why")) return;
  if (details.open) explain(details);
  else delete details.dataset.resting;
}, true);

grid?.addEventListener("pointerover", (event) => {
  const summary = event.target.closest(".why > summary");
  if (!summary || event.pointerType !== "mouse") return;
  const details = summary.parentElement;
  const timer = setTimeout(() => {
    if (!details.open) [details.dataset.resting, details.open] = ["yes", true];
  }, REST);
  details.addEventListener("pointerleave", () => {
    clearTimeout(timer);
    if (details.dataset.resting) details.open = false;
  }, { once: true });
});

grid?.addEventListener("click", (event) => {
  const details = event.target.closest(".why > summary")?.parentElement;
  if (!details?.dataset.resting) return;
  event.preventDefault(); // it is open because the mouse rests there; the click keeps it open
  delete details.dataset.resting;
});

document.addEventListener("keydown", (event) => {
  const open = event.key === "Escape" && document.querySelector("details.why[open]");
  if (!open) return;
  open.open = false;
  open.querySelector("summary").focus();
});

// ---- The conversation.

const chat = startChat({
  items,
  likes(more) {
    const news = more.filter(({ id }) => !items().includes(id));
    if (!news.length) return;
    strip.append(...news.map(seen));
    remember();
  },
  answered(recommendations, words) {
    asking?.abort();
    wished = true;
    list(recommendations, `For ${words.map((one) => `“${one}”`).join(", ")}`, { wish: true, more: false });
  },
  left() {
    wished = false;
  },
});
