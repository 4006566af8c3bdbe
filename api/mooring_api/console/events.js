// The list of events, its filter, and how many come.

import { History, spark } from '/console/charts.js';
import { EventLog } from '/console/eventlog.js';
import { KINDS } from '/console/facts.js';
import { VirtualList } from '/console/list.js';
import { $, ROW_HEIGHT, cells, touch, write } from '/console/page.js';
import { exactTime, rate } from '/console/words.js';

// Between these two there may be messages that nobody has seen.
const GAPS = new Set(['onDisconnect', 'onReconnect', 'gap']);

const log = new EventLog();
const total = new History();
const totalPlot = spark($('total-chart'), 180, 40);
let lastSeen = 0;
let lastSecond = performance.now();

export const eventList = new VirtualList($('events'), {
  rowHeight: ROW_HEIGHT,
  keyOf: (event) => event.id,
  make: () => cells(['time', 'number connection', 'kind', 'text']),
  fill(row, event) {
    write(row.time, exactTime(event.time));
    write(row.connection, event.connection ? String(event.connection) : '');
    write(row.kind, event.kind);
    row.kind.className = `kind tone-${KINDS[event.kind]?.tone}`;
    row.classList.toggle('gap', GAPS.has(event.kind));
    write(row.text, event.summary);
    row.text.title = event.summary;
  },
});

export function addEvents(lines, now) {
  log.add(lines, now);
  touch();
}

export const drawEvents = () => eventList.set(log.containing($('event-filter').value));

// How many come, once a second.
export function drawEventRate() {
  const now = performance.now();
  if (now - lastSecond < 1000) return;
  const perSecond = (log.seen - lastSeen) / ((now - lastSecond) / 1000);
  lastSeen = log.seen;
  lastSecond = now;
  total.push(perSecond);
  totalPlot.setData(total.data);
  write($('event-rate'), `${rate(perSecond) || 0}/s`);
}

$('event-filter').addEventListener('input', touch);
$('clear').addEventListener('click', () => { log.clear(); touch(); });
$('pause').addEventListener('click', () => {
  log.paused = !log.paused;
  $('pause').setAttribute('aria-pressed', log.paused);
  write($('pause'), log.paused ? 'Resume' : 'Pause');
  touch();
});
