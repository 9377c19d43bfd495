// Fills the page's blank pieces. Words from the server are text, never markup.

const NAMES = new Map(
  [...(document.getElementById("system-names")?.content.children ?? [])].map((one) => [
    one.value,
    one.textContent,
  ]),
);
const TOP = 4; // items of the history that a card's reasons name

export const blank = (name) =>
  document.getElementById(`blank-${name}`).content.firstElementChild.cloneNode(true);

const all = (root, slot) => root.querySelectorAll(`[data-slot="${slot}"]`);

export function put(root, slot, text) {
  for (const one of all(root, slot)) one.textContent = text;
}

/** A card of the grid, from a Recommendation of the API. */
export function card(one, own) {
  const root = blank("card");
  const { item } = one;
  known(root, item);
  put(root, "place", one.place);
  put(root, "price", item.attributes.price ?? "");
  mark(root, own.includes(item.id));
  for (const link of all(root, "why")) link.href = `/why/${encodeURIComponent(item.id)}`;
  rows(root, "systems", Object.entries(one.systems).map(([system, place]) =>
    filled("system", { title: NAMES.get(system) ?? system, place: ordinal(place) })));
  rows(root, "interests", item.interests.map(listed));
  put(root, "caption", item.caption ?? "");
  if (!item.caption) root.querySelector('[data-part="caption"]').remove();
  if (one.reasons) reasons(root, one.reasons);
  return root;
}

/** An item of the history's strip. */
export function seen(item) {
  const root = blank("seen");
  known(root, item);
  for (const one of [...all(root, "drop"), ...all(root, "value")]) one.value = item.id;
  return root;
}

/** A line of the conversation. */
export function found(one) {
  const root = blank("found");
  known(root, one.item);
  put(root, "place", one.place);
  put(root, "price", one.item.attributes.price ?? "");
  return root;
}

/** Shows on a card whether its item is in the history. */
export function mark(root, has) {
  for (const button of all(root, "add")) {
    button.name = has ? "drop" : "add";
    button.setAttribute("aria-pressed", has);
  }
}

/** Says in a card how much each item of the history counted. */
export function reasons(root, { influence }) {
  const list = root.querySelector('[data-slot="influence"]');
  const top = Math.max(0.1, ...(influence ?? []).map((one) => Math.abs(one.log_ratio)));
  list.replaceChildren(...(influence ?? []).slice(0, TOP).map((one) => {
    const row = filled("influence", { title: one.title, factor: factor(one.log_ratio) });
    const meter = row.querySelector("meter");
    [meter.max, meter.value] = [top, Math.abs(one.log_ratio)];
    row.classList.toggle("against", one.log_ratio < 0);
    return row;
  }));
  if (influence == null) put(root, "note", "This shop has no language model that could say.");
  else if (!influence.length) put(root, "note", "It is empty, so nothing in it counted.");
  else put(root, "note", "How many times likelier each makes this item.");
}

function known(root, item) {
  root.dataset.id = item.id;
  put(root, "title", item.title);
  for (const link of all(root, "link")) {
    link.href = `/items/${encodeURIComponent(item.id)}`;
    if (link.title !== undefined && root.matches("[data-id]:not(.card)")) link.title = item.title;
  }
  for (const one of all(root, "add")) one.value = item.id;
  for (const picture of all(root, "image")) {
    if (item.image?.startsWith("/")) picture.src = item.image;
    else picture.replaceWith(tile(item.title));
  }
}

function tile(title) {
  const box = document.createElement("span");
  box.className = "picture tile";
  box.ariaHidden = "true";
  box.textContent = title.trim().slice(0, 1).toUpperCase() || "?";
  return box;
}

function filled(name, words) {
  const root = blank(name);
  for (const [slot, text] of Object.entries(words)) put(root, slot, text);
  return root;
}

function rows(root, slot, children) {
  const list = root.querySelector(`[data-slot="${slot}"]`);
  if (children.length) list.replaceChildren(...children);
  else list.closest("[data-part]").remove();
}

function listed(word) {
  const row = document.createElement("li");
  row.textContent = word;
  return row;
}

const factor = (ratio) => `×${Math.exp(Math.min(Math.max(ratio, -7), 7)).toFixed(1)}`;

function ordinal(place) {
  const teen = place % 100 >= 11 && place % 100 <= 13;
  return place + ((!teen && { 1: "st", 2: "nd", 3: "rd" }[place % 10]) || "th");
}
