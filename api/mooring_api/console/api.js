// The REST API, with the token of this tab. Streams resume by themselves: nothing is lost over a restart of the service.

const KEY = 'mooring.token';

export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail ?? `status ${status}`);
    this.status = status;
    this.body = body ?? {};
  }
}

export const isRefusal = (error) => error.status === 401 || error.status === 403;

export const token = {
  // The fragment never travels to a server; once read it is taken out of the address.
  read() {
    const given = new URLSearchParams(location.hash.slice(1)).get('token');
    if (given) {
      sessionStorage.setItem(KEY, given);
      history.replaceState(null, '', location.pathname);
    }
    return sessionStorage.getItem(KEY);
  },
  set(value) { sessionStorage.setItem(KEY, value); },
};

function headers(more) {
  const found = new Headers(more);
  const value = sessionStorage.getItem(KEY);
  if (value) found.set('Authorization', `Bearer ${value}`);
  return found;
}

export async function request(method, path, { body, type, timeoutMs = 20000 } = {}) {
  let response;
  let text;
  try {
    response = await fetch(path, {
      method,
      body,
      headers: headers(type ? { 'Content-Type': type } : {}),
      signal: AbortSignal.timeout(timeoutMs),
    });
    text = await response.text();
  } catch {
    throw new Error('The service does not answer.'); // the browsers' own words differ, and say less
  }
  let parsed = null;
  try { parsed = text ? JSON.parse(text) : null; } catch { /* plain text of the HTTP parser */ }
  if (!response.ok) throw new Problem(response.status, parsed);
  return parsed;
}

export const json = (method, path, value) =>
  request(method, path, { body: JSON.stringify(value), type: 'application/json' });

let stream = new AbortController();

// A stream can hang where requests fail (a machine that slept, a cable): the next one begins where it was.
export const breakStream = () => stream.abort();

// An id is <epoch>-<position>: every event has one position.
export const position = (id) => Number(id.slice(id.lastIndexOf('-') + 1));

const earlier = (id, count) => `${id.slice(0, id.lastIndexOf('-'))}-${Math.max(0, position(id) - count)}`;

// Calls onLines with the lines of each read (one event each), for ever, and with the position up to which they are history:
// the last `past` events come first. Calls onState with 'live' or 'away'. Throws when the token is refused.
export async function follow(onLines, onState, past) {
  let cursor = null;
  let now = 0;
  let delay = 200;
  for (;;) {
    try {
      // Where "now" is, first: then a stream that breaks before its first event loses none either.
      if (cursor === null) {
        const { next } = await request('GET', '/v1/events?after=now&limit=1');
        now = position(next);
        cursor = earlier(next, past);
      }
      stream = new AbortController();
      const response = await fetch(`/v1/events?after=${cursor}`, {
        headers: headers({ Accept: 'application/x-ndjson' }),
        signal: stream.signal,
      });
      if (!response.ok) throw new Problem(response.status, null);
      onState('live');
      delay = 200;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = '';
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const lines = (rest + value).split('\n');
        rest = lines.pop();
        if (lines.length) {
          cursor = JSON.parse(lines[lines.length - 1]).id;
          onLines(lines, now);
        }
      }
    } catch (error) {
      if (error instanceof Problem && isRefusal(error)) throw error;
    }
    onState('away');
    await new Promise((resolve) => setTimeout(resolve, delay));
    delay = Math.min(delay * 2, 3000);
  }
}
