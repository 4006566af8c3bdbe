// Why a connection is as it is, and what an event says, in words.

import { KINDS } from '/console/facts.js';

const CODES = {
  1000: 'normally', 1001: 'because one side was going away', 1002: 'after a protocol error',
  1003: 'because of data that could not be accepted', 1005: 'without a code', 1006: 'without a close frame',
  1007: 'because of data that was not valid', 1008: 'because of a policy', 1009: 'because a message was too big',
  1010: 'because an extension was missing', 1011: 'after an internal error', 1012: 'for a restart',
  1013: 'because the server asked to try again later', 1014: 'by a gateway',
};

// What a kept connection without a socket does, in the words of its record: `4th in 12 s`, `4th dialling`.
function doing({ phase, attempt, nextAttemptAt }, countdown = duration) {
  if (phase === 'waiting' && nextAttemptAt) return `${ordinal(attempt + 1)} in ${countdown((new Date(nextAttemptAt) - Date.now()) / 1000)}`;
  if (phase === 'blocked') return phase;
  return `${ordinal(['dialling', 'opening', 'renewing'].includes(phase) ? Math.max(1, attempt) : attempt + 1)} ${phase}`;
}

// A recipe's steps, while they run: ` (step 2 of 3)`; in a row, where there is no room, `2/3`.
const atStep = ({ opening }) => (opening ? ` (step ${opening.step} of ${opening.steps})` : '');

export const status = (record) => (record.down ? `${record.status} ${doing(record.down, inShort)}` : record.status) + (record.opening ? ` ${record.opening.step}/${record.opening.steps}` : '');

const PHASES = {
  waiting: (down) => `The ${doing(down).replace(' in ', ' attempt is in ')}.`,
  limited: () => 'It waits for its turn to dial this host ([redial] of the configuration).',
  renewing: () => 'It fetches what the next attempt needs.',
  dialling: (down) => `The ${ordinal(Math.max(1, down.attempt))} attempt is under way.`,
  opening: (down, steps) => `The server has accepted it; the opening steps run${steps}.`,
  blocked: () => 'Its worker is gone: it dials again once that runs.',
};

function whyDown({ down, socket, opening }) {
  const since = socket ? `Socket ${socket} was lost at ${time(down.since)}, ${duration((Date.now() - new Date(down.since)) / 1000)} ago.` : 'It has not been ready yet.';
  const error = down.errors.length ? down.errors[0].message : down.reason || (CODES[down.code] ? `it was closed ${CODES[down.code]}` : '');
  return `${since}${error ? ` Last error: ${sentence(error)}` : ''} ${PHASES[down.phase]?.(down, atStep({ opening })) ?? ''}`.trim();
}

function whyConnected({ openedAt, socket, socketOpenedAt, reconnects, stats }) {
  if (!reconnects) return `Open since ${time(openedAt)}.`;
  const down = duration(stats.downMs / 1000);
  return `Open since ${time(openedAt)}; socket ${socket} since ${time(socketOpenedAt)}. It came back ${reconnects === 1 ? 'once' : `${reconnects} times`}, and was down for ${down} in all.`;
}

export function why(record) {
  if (record.down) return whyDown(record);
  if (record.opening) return PHASES.opening(null, atStep(record));
  if (record.status === 'Connecting') return 'The handshake is under way.';
  if (record.status === 'Connected') return whyConnected(record);
  if (record.status === 'Closing') return 'The close frame is on its way; the peer has not answered yet.';
  const end = record.terminate;
  const cause = record.errors.length ? ` ${sentence(record.errors[record.errors.length - 1].message)}` : '';
  if (!end) return 'Closed.';
  if (!record.openedAt) return `It never opened.${cause}`;
  const how = CODES[end.code] ?? (end.code >= 4000 ? `with the application's own code ${end.code}` : `with code ${end.code}`);
  const reason = end.reason && !cause.includes(end.reason) ? ` ${sentence(end.reason)}` : '';
  return `Closed ${how}${end.wasClean ? '' : ', not cleanly'}, at ${time(record.closedAt)}.${reason}${cause}`;
}

export const summary = (event) => visible(inWords(event));

// What an event says, by the words of its kind: {name} is a field, {name|text} stands where it is missing, {name?yes:no} is
// one of two texts, {name@} its time of day, {name~} its milliseconds as a duration, {name+thing} so many things.
function inWords(event) {
  const data = event.event;
  const who = event.connection || !event.worker ? '' : `${event.worker}: `;
  const words = KINDS[event.kind]?.words;
  if (words === undefined) return who + JSON.stringify(data);
  return who + words.replace(/\{(\w+)([@~]?)(?:\|([^}]*)|\?([^:}]*):([^}]*)|\+([^}]*))?\}/g, (_, name, form, missing = '', yes, no, thing) => {
    const value = data[name];
    if (yes !== undefined) return value && value.length !== 0 ? yes : no;
    if (value === undefined || value === null) return missing;
    if (form === '@') return exactTime(value);
    if (form === '~') return duration(value / 1000);
    if (thing !== undefined) return `${value} ${thing}${value === 1 ? '' : 's'}`;
    return name === 'errors' ? value.map((error) => `${error.errCode} ${error.message}`).join('; ') : short(value);
  }).trimEnd();
}

function short(value) {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return text.length > 400 ? `${text.slice(0, 400)}…` : text;
}

// Characters that change the direction of the text around them, or show nothing: written as JSON writes them.
const visible = (text) => text.replace(/[\u0080-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
  (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);

// A number is shown as it came, also where a double cannot hold it (browsers that cannot show its rounded value).
const exact = (key, value, context) => (typeof value === 'number' && JSON.rawJSON && context?.source !== undefined
  && context.source !== String(value) ? JSON.rawJSON(context.source) : value);

// As JSON.parse; only where a number could be too long for a double is each looked at.
export const parse = (line) => (/\d{16}/.test(line) ? JSON.parse(line, exact) : JSON.parse(line));

export const pretty = (text) => visible(JSON.stringify(JSON.parse(text, exact), null, 2));

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`;

const two = (value) => String(value).padStart(2, '0');

export function time(text) {
  if (!text) return '';
  const at = new Date(text);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

// As time(), with the milliseconds: for the list, where the order within a second counts.
export const exactTime = (text) => `${time(text)}${text.slice(19, 23)}`;

// A time as somebody says it: 0.25 s, 12 s, 4 min 10 s, 3 h 5 min, 2 d 7 h.
export function duration(seconds) {
  if (seconds < 10) return `${Number(Math.max(0, seconds).toPrecision(2))} s`;
  const whole = Math.round(seconds);
  for (const [large, name, small, smallName] of [[86400, 'd', 3600, 'h'], [3600, 'h', 60, 'min'], [60, 'min', 1, 's']]) {
    if (whole < large) continue;
    const rest = Math.floor((whole % large) / small);
    return `${Math.floor(whole / large)} ${name}${rest ? ` ${rest} ${smallName}` : ''}`;
  }
  return `${whole} s`;
}

// The same where there is little room: the larger unit alone.
const inShort = (seconds) => duration(seconds).split(' ').slice(0, 2).join(' ');

export function rate(value) {
  if (!value) return '';
  return value >= 1000 ? `${(value / 1000).toFixed(1)}k` : value >= 10 ? value.toFixed(0) : value.toFixed(1);
}

function ordinal(number) {
  const teen = number % 100 > 10 && number % 100 < 14;
  return `${number}${(!teen && { 1: 'st', 2: 'nd', 3: 'rd' }[number % 10]) || 'th'}`;
}

export function bytes(value) {
  if (value < 2 ** 10) return `${value} bytes`;
  if (value < 2 ** 20) return `${(value / 2 ** 10).toFixed(0)} KiB`;
  return value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${(value / 2 ** 20).toFixed(0)} MiB`;
}
