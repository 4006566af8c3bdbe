// The REST API, with the token of this tab. Streams resume by themselves: nothing is lost over a restart of the service.

const KEY = 'mooring.token';

export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail ?? `status ${status}`);
    this.status = status;
    this.body = body ?? {};
  }
}

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
  forget() { sessionStorage.removeItem(KEY); },
};

function headers(more) {
  const found = new Headers(more);
  const value = sessionStorage.getItem(KEY);
  if (value) found.set('Authorization', `Bearer ${value}`);
  return found;
}

export async function request(method, path, { body, type, timeoutMs = 20000 } = {}) {
  const response = await fetch(path, {
    method,
    body,
    headers: headers(type ? { 'Content-Type': type } : {}),
    signal: AbortSignal.timeout(timeoutMs),
  });
  const text = await response.text();
  let parsed = null;
  try { parsed = text ? JSON.parse(text) : null; } catch { /* plain text of the HTTP parser */ }
  if (!response.ok) throw new Problem(response.status, parsed);
  return parsed;
}

export const json = (method, path, value) =>
  request(method, path, { body: JSON.stringify(value), type: 'application/json' });

// Calls onEvents with the events of each read, for ever; onState with 'live' or 'away'.
export async function follow(onEvents, onState) {
  let cursor = null;
  let delay = 200;
  for (;;) {
    try {
      // Where "now" is, first: then a stream that breaks before its first event loses none either.
      cursor ??= (await request('GET', '/v1/events?after=now&limit=1')).next;
      const response = await fetch(`/v1/events?after=${cursor}`, {
        headers: headers({ Accept: 'application/x-ndjson' }),
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
        const events = lines.map((line) => JSON.parse(line));
        if (events.length) {
          cursor = events[events.length - 1].id;
          onEvents(events);
        }
      }
    } catch (error) {
      if (error instanceof Problem && error.status === 401) throw error;
    }
    onState('away');
    await new Promise((resolve) => setTimeout(resolve, delay));
    delay = Math.min(delay * 2, 3000);
  }
}
