// Asks the server. Whatever goes wrong becomes a Trouble, which can be shown in plain words.

export class Trouble extends Error {
  constructor(message, { wait = 0, login = false } = {}) {
    super(message);
    this.wait = wait; // seconds after which asking again makes sense
    this.login = login;
  }
}

/** Returns the answer if it is a good one; `body` makes it a POST. */
export async function ask(path, { body, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    throw understood(error);
  }
  if (answer.ok) return answer;
  throw await refusal(answer);
}

/** Leaves an answer that was stopped alone; a connection that failed gets a kinder name. */
export function understood(error) {
  if (error instanceof Trouble || error.name === "AbortError") return error;
  return new Trouble("The shop does not answer. Its server may be restarting, or you may be offline.");
}

async function refusal(answer) {
  const body = await answer.json().catch(() => null);
  const wait = Math.min(Number(answer.headers.get("Retry-After")) || 0, 600);
  if (answer.status === 401) return new Trouble("The shop asks for its key.", { login: true });
  if (answer.status === 429) return new Trouble("The shop is busy.", { wait: wait || 1 });
  if (answer.status === 503) return new Trouble("The shop is restarting.", { wait: wait || 5 });
  if (answer.status === 504) return new Trouble("The answer took too long.");
  if (answer.status >= 500) return new Trouble("Something went wrong on the server.");
  return new Trouble(body?.error?.message ?? `The shop refused this (${answer.status}).`);
}

/** Shows a trouble with the way out of it: wait and try again, or sign in. */
export function show(box, trouble, again) {
  const words = document.createElement("p");
  words.textContent = trouble.message;
  box.replaceChildren(words, trouble.login ? loginLink() : retry(box, trouble.wait, again));
  box.hidden = false;
}

export function clear(box) {
  clearInterval(box.ticking);
  box.replaceChildren();
  box.hidden = true;
}

function loginLink() {
  const link = document.createElement("a");
  link.className = "button";
  link.href = "/login?" + new URLSearchParams({ next: location.pathname + location.search });
  link.textContent = "Sign in";
  return link;
}

function retry(box, wait, again) {
  const button = document.createElement("button");
  button.type = "button";
  const tick = () => {
    button.disabled = wait > 0;
    button.textContent = wait > 0 ? `Try again in ${wait} s` : "Try again";
    if (wait-- <= 0) clearInterval(box.ticking);
  };
  clearInterval(box.ticking);
  box.ticking = setInterval(tick, 1000);
  tick();
  button.addEventListener("click", () => {
    clear(box);
    again();
  });
  return button;
}
