// The workers that there are: polled, drawn, ended.

import { request } from '/console/api.js';
import { History, spark } from '/console/charts.js';
import { TONES } from '/console/facts.js';
import { $, act, confirmed, write } from '/console/page.js';
import { bytes } from '/console/words.js';

const workers = new Map(); // name → { record, history, element, plot }
let polled = 0;

export async function pollWorkers() {
  const found = (await request('GET', '/v1/workers')).workers;
  const now = performance.now();
  const elapsed = Math.max(0.2, (now - polled) / 1000);
  polled = now;
  const names = new Set(found.map((record) => record.name));
  for (const [name, worker] of workers) {
    if (!names.has(name)) {
      worker.element.remove();
      workers.delete(name);
    }
  }
  for (const record of found) {
    const worker = workers.get(record.name) ?? add(record);
    const share = Math.max(0, record.cpu - worker.record.cpu) / elapsed;
    worker.history.push(share * 100);
    worker.record = record;
    draw(worker);
  }
  $('workers').querySelector('.empty')?.remove();
  if (!found.length) $('workers').innerHTML = '<li class="empty">None yet: the first connection starts one.</li>';
}

function add(record) {
  $('workers').querySelector('.empty')?.remove();
  const element = document.createElement('li');
  element.innerHTML = '<div><div class="name"></div><div class="facts"></div></div><div class="side"><div class="chart" title="CPU, last minute"></div><button></button></div>';
  element.dataset.worker = record.name;
  $('workers').append(element);
  const worker = { record, element, history: new History() };
  worker.plot = spark(element.querySelector('.chart'), 90, 22);
  element.querySelector('button').addEventListener('click', () => endOrRestart(worker.record));
  workers.set(record.name, worker);
  return worker;
}

function draw({ record, element, plot, history }) {
  const name = element.querySelector('.name');
  name.className = `name status ${record.status} tone-${TONES[record.status]}`;
  write(name, record.name);
  name.title = `${record.name}: ${record.status}${record.reason ? `, ${record.reason}` : ''}`;
  const facts = [`${record.connections} open`, `mailbox ${record.mailbox}`, bytes(record.rss)];
  if (record.restarts) facts.push(`${record.restarts} restarts`);
  if (record.running && record.running.seconds > 1) facts.push(`${record.running.name} ${record.running.seconds.toFixed(0)} s`);
  if (record.status !== 'Running') facts.unshift(record.status);
  write(element.querySelector('.facts'), facts.join(' · '));
  write(element.querySelector('button'), record.status === 'Failed' ? 'Restart' : 'Kill');
  plot.setData(history.data);
}

async function endOrRestart(record) {
  if (record.status === 'Failed') {
    await act(() => request('PUT', `/v1/workers/${record.name}`));
    return;
  }
  const closed = record.connections === 1 ? '1 connection is' : `${record.connections} connections are`;
  const text = `Its ${closed} closed with 1001, and what waits in its mailbox is discarded.`;
  if (await confirmed(`Kill worker ${record.name}?`, text, 'Kill')) {
    await act(() => request('DELETE', `/v1/workers/${record.name}`));
  }
}
