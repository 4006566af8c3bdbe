// Why a connection is as it is, in words.

const CODES = {
  1000: 'normally', 1001: 'because one side was going away', 1002: 'after a protocol error',
  1003: 'because of data that could not be accepted', 1005: 'without a code', 1006: 'without a close frame',
  1007: 'because of data that was not valid', 1008: 'because of a policy', 1009: 'because a message was too big',
  1010: 'because an extension was missing', 1011: 'after an internal error', 1012: 'for a restart',
  1013: 'because the server asked to try again later', 1014: 'by a gateway',
};

export function why(record) {
  if (record.status === 'Connecting') return 'The handshake is under way.';
  if (record.status === 'Connected') return `Open since ${time(record.openedAt)}.`;
  if (record.status === 'Closing') return 'The close frame is on its way; the peer has not answered yet.';
  const end = record.terminate;
  const cause = record.errors.length ? ` ${sentence(record.errors[record.errors.length - 1].message)}` : '';
  if (!end) return 'Closed.';
  if (!record.openedAt) return `It never opened.${cause}`;
  const how = CODES[end.code] ?? (end.code >= 4000 ? `with the application's own code ${end.code}` : `with code ${end.code}`);
  const reason = end.reason && !cause.includes(end.reason) ? ` ${sentence(end.reason)}` : '';
  return `Closed ${how}${end.wasClean ? '' : ', not cleanly'}, at ${time(record.closedAt)}.${reason}${cause}`;
}

export function summary(event) {
  const data = event.event;
  switch (event.kind) {
    case 'onMessage':
      return data.encoding === 'base64' ? `blob ${data.data.slice(0, 200)}` : short(data.data);
    case 'onOpen': return 'opened';
    case 'onError': return data.errors.map((error) => error.message).join('; ');
    case 'onTerminate': return `${data.code}${data.wasClean ? '' : ' not clean'} ${data.reason}`;
    case 'callbackError': return `${data.callback}: ${data.exception}: ${data.message}`;
    case 'workerStarted': return `${event.worker} started, process ${data.pid}`;
    case 'workerExited': return `${event.worker} ended: ${data.reason}${data.restarting ? '; restarting' : ''}`;
    case 'gap': return `${data.lost ?? 'some'} events are no longer kept`;
    default: return JSON.stringify(data);
  }
}

function short(value) {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return text.length > 400 ? `${text.slice(0, 400)}…` : text;
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`;

export function time(text) {
  return text ? new Date(text).toLocaleTimeString([], { hour12: false }) : '';
}

export function rate(value) {
  if (!value) return '';
  return value >= 1000 ? `${(value / 1000).toFixed(1)}k` : value >= 10 ? value.toFixed(0) : value.toFixed(1);
}

export function bytes(value) {
  return value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${(value / 2 ** 20).toFixed(0)} MiB`;
}
