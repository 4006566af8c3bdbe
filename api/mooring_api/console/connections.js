// The connections that there are: polled, counted, listed.

import { request } from '/console/api.js';
import { History, spark } from '/console/charts.js';
import { TONES } from '/console/facts.js';
import { VirtualList } from '/console/list.js';
import { $, ROW_HEIGHT, cells, touch, write } from '/console/page.js';
import { rate, status, why } from '/console/words.js';

const connections = new Map(); // id → { record, inRate, outRate, history }
let polled = 0;

export const connectionList = new VirtualList($('connections'), {
  rowHeight: ROW_HEIGHT,
  keyOf: (item) => item.record.id,
  make() {
    const row = cells(['number', 'status', 'worker', 'number in', 'number out', 'chart', 'url']);
    row.plot = spark(row.chart, 70, 22);
    return row;
  },
  fill(row, item) {
    const { record } = item;
    write(row.number, String(record.id));
    row.status.className = `status ${record.status} tone-${TONES[record.status]}`;
    write(row.status, status(record));
    row.status.title = record.down ? why(record) : '';
    write(row.worker, record.worker);
    row.worker.title = record.worker;
    write(row.in, rate(item.inRate));
    write(row.out, rate(item.outRate));
    write(row.url, record.name ? `${record.name} · ${record.url}` : record.url);
    row.url.title = record.url;
    row.plot.setData(item.history.data);
  },
});

// { record, inRate, outRate, history } of a connection that is retained.
export const connection = (id) => connections.get(id);

export const addConnection = (record) =>
  connections.set(record.id, { record, inRate: 0, outRate: 0, history: new History() });

export async function pollConnections() {
  const seen = new Set();
  const now = performance.now();
  const elapsed = Math.max(0.2, (now - polled) / 1000);
  let after = 0;
  for (;;) {
    const page = await request('GET', `/v1/connections?limit=1000&after=${after}`);
    for (const record of page.connections) {
      seen.add(record.id);
      const known = connections.get(record.id);
      if (!known) {
        addConnection(record);
        continue;
      }
      const { stats } = known.record;
      known.inRate = polled ? Math.max(0, record.stats.messagesIn - stats.messagesIn) / elapsed : 0;
      known.outRate = polled ? Math.max(0, record.stats.messagesOut - stats.messagesOut) / elapsed : 0;
      known.history.push(known.inRate + known.outRate);
      known.record = record;
    }
    if (page.next === null) break;
    after = page.next;
  }
  for (const id of connections.keys()) if (!seen.has(id)) connections.delete(id);
  polled = now;
}

function filtered() {
  const text = $('connection-filter').value.trim().toLowerCase();
  const closed = $('show-closed').checked;
  const found = [];
  for (const item of connections.values()) {
    const { record } = item;
    if (!closed && record.status === 'Closed') continue;
    if (text && !`${record.id} ${record.name ?? ''} ${record.worker} ${record.status} ${record.url} ${record.handler ?? ''}`.toLowerCase().includes(text)) continue;
    found.push(item);
  }
  // The open ones first, the newest on top.
  return found.sort((a, b) => (a.record.status === 'Closed') - (b.record.status === 'Closed') || b.record.id - a.record.id);
}

export function drawConnections() {
  const shown = filtered();
  connectionList.set(shown);
  write($('connection-count'), String(shown.length));
  let open = 0;
  let down = 0;
  let incoming = 0;
  let outgoing = 0;
  for (const { record, inRate, outRate } of connections.values()) {
    open += record.status === 'Connected';
    down += Boolean(record.down);
    incoming += inRate;
    outgoing += outRate;
  }
  $('connections-section').classList.toggle('some-down', down > 0); // there the status says more
  $('totals').innerHTML = `<span><b>${open}</b> open</span>${down ? `<span class="tone-warn"><b>${down}</b> down</span>` : ''}<span><b>${rate(incoming) || 0}</b> in/s</span><span><b>${rate(outgoing) || 0}</b> out/s</span>`;
}

$('connection-filter').addEventListener('input', touch);
$('show-closed').addEventListener('change', touch);
