// The conversation: it is kept in this tab alone, and sent whole with every turn.

import { blank, found, put } from "./cards.js";
import { ask, clear, show, Trouble, understood } from "./server.js";

const $ = (id) => document.getElementById(id);
const KEPT = 40; // turns that are sent
const ITEMS = 8; // of a list
const GOES_ON = ["refine", "more", "alike", "like"]; // turns about the list before

/** Starts the pane, if the page has one; returns `leave`, which lets the list of the last turn go. */
export function startChat({ items, likes, answered, left }) {
  const pane = $("chat");
  if (!pane) return { leave() {} };
  const [form, log, wish, send] = [$("chat-form"), $("chat-log"), $("wish"), $("chat-send")];
  const store = `genrec-chat ${pane.dataset.model}`;
  const state = restored(store);
  let running;

  function keep() {
    try {
      sessionStorage.setItem(store, JSON.stringify(state));
    } catch { /* full or forbidden: the conversation lasts as long as the page */ }
    $("chat-reset").hidden = !state.turns.length;
    log.hidden = !state.turns.length;
    $("chat-hint").hidden = state.turns.length > 0;
  }

  function say(turn) {
    const root = blank("turn");
    root.classList.add(turn.role);
    put(root, "who", turn.role === "user" ? "You: " : "Shop: ");
    put(root, "words", turn.content);
    log.hidden = false;
    log.append(root);
    read();
    return root;
  }

  /** Shows the items as pictures, in place of the lines of the text that list them. */
  function picture(root, { content, found: shown }) {
    const listed = (line) =>
      shown.some(({ place, item }) => line.startsWith(`${place}. ${item.title}`));
    const lines = content.split("\n").filter((line) => !listed(line));
    put(root, "words", lines.join("\n").replace(/\n{3,}/g, "\n\n").trim());
    root.querySelector(".found").replaceChildren(...shown.map(found));
    read();
  }

  /** What was asked last stands on top, so that its answer is read from the beginning. */
  function read() {
    const asked = [...log.querySelectorAll(".user")].at(-1);
    if (asked) log.scrollTop = asked.offsetTop - 4;
  }

  /** The wish that a list answers, with what was said to refine it. */
  function wished(place) {
    const words = [];
    for (let n = place; n > 0; n -= 2) {
      if (!state.turns[n].found) continue; // a question between
      words.unshift(state.turns[n - 1].content);
      if (!GOES_ON.includes(state.turns[n].turn)) break;
    }
    return words;
  }

  /** Streams the answer to the turns so far. */
  async function turn() {
    running = new AbortController();
    busy(true);
    clear($("chat-trouble"));
    const reply = { role: "assistant", content: "" };
    const root = say(reply);
    try {
      const answer = await ask("/v1/chat/completions", { signal: running.signal, body: request() });
      for await (const part of events(answer)) {
        if (part.error) throw new Trouble(part.error.message);
        reply.content += part.choices?.[0]?.delta?.content ?? "";
        put(root, "words", reply.content);
        read();
        reply.turn = part.turn;
        reply.liked = part.liked;
        if (part.recommendations?.length) reply.found = part.recommendations;
      }
    } catch (error) {
      const trouble = understood(error);
      if (trouble.name !== "AbortError" || !reply.content) root.remove();
      if (trouble.name !== "AbortError") show($("chat-trouble"), trouble, turn);
      if (trouble.name !== "AbortError" || !reply.content) return;
    } finally {
      busy(false);
    }
    finish(reply, root);
  }

  function finish(reply, root) {
    state.turns.push(reply);
    likes(reply.liked ?? []);
    if (reply.found) {
      state.shown = true;
      picture(root, reply);
      answered(reply.found, wished(state.turns.length - 1));
    }
    keep();
  }

  function request() {
    // With the items that were shown, so that "the second" means the second.
    const messages = state.turns.slice(-KEPT).map(({ role, content, found: shown }) => ({
      role,
      content,
      ...(shown && { recommendations: shown.map(({ item: { id, title } }) => ({ id, title })) }),
    }));
    const { model } = pane.dataset;
    return { model, messages, stream: true, k: ITEMS, history: items() };
  }

  function busy(now) {
    log.ariaBusy = String(now); // read out when it is whole, not word by word
    send.textContent = now ? "Stop" : "Send";
    if (!now) running = undefined;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) return running.abort();
    const content = (event.submitter?.name === "q" ? event.submitter.value : wish.value).trim();
    if (!content) return wish.focus();
    if (state.turns.at(-1)?.role === "user") { // it was never answered
      state.turns.pop();
      log.lastElementChild.remove();
    }
    state.turns.push({ role: "user", content });
    say(state.turns.at(-1));
    wish.value = "";
    keep();
    turn();
  });

  $("chat-reset").addEventListener("click", () => {
    running?.abort();
    state.turns = [];
    log.replaceChildren();
    clear($("chat-trouble"));
    keep();
    wish.focus();
    $("grid-back").click();
  });

  for (const one of state.turns) {
    const root = say(one);
    if (one.found) picture(root, one);
  }
  keep();
  const last = state.turns.findLastIndex((one) => one.found);
  if (state.shown && last > 0 && !$("grid").dataset.wish) {
    queueMicrotask(() => answered(state.turns[last].found, wished(last)));
  }
  return {
    leave() {
      state.shown = false;
      keep();
      left();
    },
  };
}

function restored(store) {
  try {
    const { turns, shown } = JSON.parse(sessionStorage.getItem(store));
    return { turns, shown };
  } catch {
    return { turns: [], shown: false };
  }
}

/** The objects of a stream of server-sent events. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Trouble("The answer broke off.");
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}
