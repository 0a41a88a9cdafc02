// Talking to the controller. A token, if one was typed, stays in this tab.

const KEY = "distredge-token";
const PATIENCE_MS = 5000;

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** The controller answered, but not with what was asked for. `status` is HTTP's. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The controller did not answer. */
export class Unreachable extends Error {}

export function get(path) {
  return ask(path, { method: "GET" });
}

export function post(path, body) {
  return ask(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
}

async function ask(path, options) {
  const headers = { Accept: "application/json", ...options.headers };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  let response, data;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    data = await response.json().catch((error) => {
      if (error instanceof SyntaxError) return null;
      throw error;
    });
  } catch (error) {
    throw new Unreachable(error.message);
  }
  if (!response.ok) throw new Refused(response.status, detail(data) ?? `HTTP status ${response.status}`);
  if (data === null) throw new Unreachable("the answer is no JSON");
  return data;
}

function detail(data) {
  return typeof data?.detail === "string" ? data.detail : null;
}
