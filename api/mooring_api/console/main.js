// The console: what is there is polled, what happens is followed; both are drawn at most ten times a second.

import { Problem, breakStream, follow, isRefusal, json, request, token } from '/console/api.js';
import { History, large, spark } from '/console/charts.js';
import { EventLog } from '/console/eventlog.js';
import { DATA_TYPES, DEFAULT_WORKER, KINDS, NAME_PATTERN, TONES } from '/console/facts.js';
import { VirtualList } from '/console/list.js';
import { bytes, exactTime, pretty, rate, time, why } from '/console/words.js';

const POLL_MS = 1000;
const DRAW_MS = 100;
const SHOWN_CHARS = 100_000; // of a JSON at first: millions at once would hold the page up
const ROW_HEIGHT = 26;
const PAST_EVENTS = 100; // that the list begins with
const $ = (id) => document.getElementById(id);

const connections = new Map(); // id → { record, inRate, outRate, history }
const workers = new Map(); // name → { record, cpu, history, element, … }
const log = new EventLog();
const total = new History();
let chosen = null; // { connection: id } or { event }
let dirty = true;
let polled = 0;

// ------------------------------------------------------------ lists

function cells(names) {
  const row = document.createElement('div');
  row.className = 'row';
  for (const name of names) {
    const cell = document.createElement('span');
    cell.className = name;
    row.append(cell);
    row[name.split(' ').pop()] = cell;
  }
  return row;
}

function write(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}

const connectionList = new VirtualList($('connections'), {
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
    write(row.status, record.status);
    write(row.worker, record.worker);
    row.worker.title = record.worker;
    write(row.in, rate(item.inRate));
    write(row.out, rate(item.outRate));
    write(row.url, record.url);
    row.url.title = record.url;
    row.plot.setData(item.history.data);
  },
  onChoose(item) { show({ connection: item.record.id }); },
});

const eventList = new VirtualList($('events'), {
  rowHeight: ROW_HEIGHT,
  keyOf: (event) => event.id,
  make: () => cells(['time', 'number connection', 'kind', 'text']),
  fill(row, event) {
    write(row.time, exactTime(event.time));
    write(row.connection, event.connection ? String(event.connection) : '');
    write(row.kind, event.kind);
    row.kind.className = `kind tone-${KINDS[event.kind]?.tone}`;
    write(row.text, event.summary);
  },
  onChoose(event) { show({ event }); },
});

// ------------------------------------------------------------ what is there

async function pollConnections() {
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
        connections.set(record.id, { record, inRate: 0, outRate: 0, history: new History() });
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

let workersPolled = 0;
async function pollWorkers() {
  const found = (await request('GET', '/v1/workers')).workers;
  const now = performance.now();
  const elapsed = Math.max(0.2, (now - workersPolled) / 1000);
  workersPolled = now;
  const names = new Set(found.map((record) => record.name));
  for (const [name, worker] of workers) {
    if (!names.has(name)) {
      worker.element.remove();
      workers.delete(name);
    }
  }
  for (const record of found) {
    const worker = workers.get(record.name) ?? addWorker(record);
    const share = Math.max(0, record.cpu - worker.record.cpu) / elapsed;
    worker.history.push(share * 100);
    worker.record = record;
    drawWorker(worker);
  }
  $('workers').querySelector('.empty')?.remove();
  if (!found.length) $('workers').innerHTML = '<li class="empty">None yet: the first connection starts one.</li>';
}

function addWorker(record) {
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

function drawWorker({ record, element, plot, history }) {
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

async function poll() {
  for (;;) {
    if (!document.hidden) {
      try {
        await Promise.all([pollConnections(), pollWorkers()]);
        dirty = true;
      } catch (error) {
        if (error instanceof Problem && isRefusal(error)) return askToken(refused(error));
        if (!(error instanceof Problem)) breakStream();
      }
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

// ------------------------------------------------------------ drawing

function filtered() {
  const text = $('connection-filter').value.trim().toLowerCase();
  const closed = $('show-closed').checked;
  const found = [];
  for (const item of connections.values()) {
    const { record } = item;
    if (!closed && record.status === 'Closed') continue;
    if (text && !`${record.id} ${record.worker} ${record.status} ${record.url} ${record.handler ?? ''}`.toLowerCase().includes(text)) continue;
    found.push(item);
  }
  // The open ones first, the newest on top.
  return found.sort((a, b) => (a.record.status === 'Closed') - (b.record.status === 'Closed') || b.record.id - a.record.id);
}

let lastSeen = 0;
let lastSecond = performance.now();
function draw() {
  if (dirty && !document.hidden) {
    dirty = false;
    const shown = filtered();
    connectionList.set(shown);
    eventList.set(log.containing($('event-filter').value));
    let open = 0;
    let incoming = 0;
    let outgoing = 0;
    for (const { record, inRate, outRate } of connections.values()) {
      open += record.status === 'Connected';
      incoming += inRate;
      outgoing += outRate;
    }
    $('totals').innerHTML = `<span><b>${open}</b> open</span><span><b>${rate(incoming) || 0}</b> in/s</span><span><b>${rate(outgoing) || 0}</b> out/s</span>`;
    write($('connection-count'), String(shown.length));
    drawDetail();
  }
  const now = performance.now();
  if (now - lastSecond >= 1000) {
    const perSecond = (log.seen - lastSeen) / ((now - lastSecond) / 1000);
    lastSeen = log.seen;
    lastSecond = now;
    total.push(perSecond);
    totalPlot.setData(total.data);
    write($('event-rate'), `${rate(perSecond) || 0}/s`);
  }
}

function setState(kind, text) {
  $('state').className = kind;
  write($('state'), text);
}

// ------------------------------------------------------------ details

let detailPlot = null;
function show(what) {
  chosen = what;
  allShown = false;
  if (what.connection) eventList.chosen = null;
  else connectionList.chosen = null;
  $('send-result').textContent = '';
  $('detail').hidden = false;
  document.querySelector('main').classList.add('with-detail');
  dirty = true;
  drawDetail();
  if (matchMedia('(max-width: 900px)').matches) $('detail').scrollIntoView(); // it stands below the lists there
}

function hideDetail() {
  if ($('detail').contains(document.activeElement)) $(chosen.event ? 'events' : 'connections').focus();
  chosen = null;
  connectionList.chosen = eventList.chosen = null;
  $('detail').hidden = true;
  document.querySelector('main').classList.remove('with-detail');
  dirty = true;
}

let allShown = false;
function writeJson(text) {
  const selection = getSelection();
  if (!selection.isCollapsed && $('detail-json').contains(selection.anchorNode)) return; // somebody is about to copy it
  const cut = !allShown && text.length > SHOWN_CHARS;
  write($('detail-json'), cut ? `${text.slice(0, SHOWN_CHARS)}…` : text);
  $('detail-all').hidden = !cut;
  if (cut) write($('detail-all'), `Show all ${text.length.toLocaleString('en')} characters`);
}

function drawDetail() {
  if (!chosen) return;
  if (chosen.event) {
    const { event } = chosen;
    if (chosen.drawn) return; // an event never changes
    chosen.drawn = true;
    getSelection().removeAllRanges();
    write($('detail-title'), event.kind);
    write($('detail-words'), event.connection ? `Connection ${event.connection}, event ${event.seq}, at ${time(event.time)}.` : `Worker ${event.worker}, at ${time(event.time)}.`);
    writeJson(pretty(event.line));
    $('detail-chart').hidden = $('detail-actions').hidden = true;
    return;
  }
  const item = connections.get(chosen.connection);
  if (!item) {
    write($('detail-words'), 'It is no longer retained.');
    $('detail-actions').hidden = true;
    return;
  }
  const { record } = item;
  write($('detail-title'), `Connection ${record.id}`);
  write($('detail-words'), why(record));
  writeJson(pretty(JSON.stringify(record)));
  $('detail-chart').hidden = false;
  $('detail-actions').hidden = record.status !== 'Connected';
  detailPlot ??= large($('detail-chart'), 314, 90);
  detailPlot.setData(item.history.data);
}

// ------------------------------------------------------------ what people do

let toastTimer = 0;
function toast(text) {
  $('toast').textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $('toast').textContent = ''; }, 6000);
}

async function act(work) {
  try {
    return await work();
  } catch (error) {
    toast(error.message);
    return null;
  }
}

function confirmed(title, text, yes) {
  const dialog = $('confirm-dialog');
  $('confirm-title').textContent = title;
  $('confirm-text').textContent = text;
  $('confirm-yes').textContent = yes;
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

const sendAs = () => document.querySelector('input[name=as]:checked').value;

function checkSend() {
  const output = $('send-result');
  output.className = '';
  if (sendAs() !== 'object' || !$('send-text').value.trim()) {
    output.textContent = '';
    return true;
  }
  try {
    JSON.parse($('send-text').value);
    output.textContent = 'valid JSON';
    return true;
  } catch (error) {
    output.className = 'bad';
    output.textContent = error.message;
    return false;
  }
}

let sending = false;
async function send(event) {
  event.preventDefault();
  if (!chosen?.connection || !checkSend()) return;
  const kind = sendAs();
  const body = kind === 'blob' ? $('send-file').files[0] : $('send-text').value;
  const output = $('send-result');
  if (kind === 'blob' && !body) {
    output.className = 'bad';
    output.textContent = 'Choose a file.';
    return;
  }
  const type = { text: 'text/plain', object: 'application/json', blob: 'application/octet-stream' }[kind];
  if (sending) return; // a second click is no second message
  sending = true;
  try {
    const answer = await request('POST', `/v1/connections/${chosen.connection}/messages`, { body, type });
    output.className = '';
    output.textContent = `sent, ${answer.bytes} bytes`;
    $('send-text').value = '';
  } catch (error) {
    output.className = 'bad';
    output.textContent = error.message;
  } finally {
    sending = false;
  }
}

let opening = false;
async function open(event) {
  event.preventDefault();
  const form = new FormData($('open-form'));
  const body = { url: form.get('url'), dataType: form.get('dataType') };
  if (form.get('worker')) body.worker = form.get('worker');
  if (form.get('handler')) body.handler = { name: form.get('handler') };
  const headers = {};
  for (const line of form.get('headers').split('\n')) {
    const [name, ...rest] = line.split(':');
    if (!rest.length) continue;
    const value = rest.join(':').trim();
    headers[name.trim()] = name.trim() in headers ? [headers[name.trim()], value].flat() : value;
  }
  if (Object.keys(headers).length) body.headers = headers;
  const output = $('open-error');
  if (opening) return; // a second Enter is no second connection
  opening = true;
  output.className = '';
  output.textContent = 'connecting…';
  try {
    const record = await json('POST', '/v1/connections', body);
    output.textContent = '';
    $('open-dialog').close();
    connections.set(record.id, { record, inRate: 0, outRate: 0, history: new History() });
    connectionList.chosen = record.id;
    show({ connection: record.id });
  } catch (error) {
    output.className = 'bad';
    output.textContent = error.message;
  } finally {
    opening = false;
  }
}

const refused = (error) => (error.status === 403
  ? 'This token may not see connections and events.'
  : 'This token is not (or no longer) valid.');

function askToken(message) {
  setState('away', 'no token');
  $('token-error').textContent = message ?? '';
  $('token-error').className = message ? 'bad' : '';
  if (!$('token-dialog').open) $('token-dialog').showModal();
}

// ------------------------------------------------------------ start

const totalPlot = spark($('total-chart'), 180, 40);

$('open-button').addEventListener('click', () => { $('open-error').textContent = ''; $('open-dialog').showModal(); });
$('open-cancel').addEventListener('click', () => $('open-dialog').close());
$('open-form').addEventListener('submit', open);
const fields = $('open-form').elements;
fields.worker.placeholder = DEFAULT_WORKER;
fields.worker.pattern = NAME_PATTERN.replace('-]', '\\-]'); // the v flag of browsers wants it escaped
fields.dataType.append(...DATA_TYPES.map((type) => new Option(type)));
$('send-form').addEventListener('submit', send);
$('send-text').addEventListener('input', checkSend);
for (const choice of document.querySelectorAll('input[name=as]')) {
  choice.addEventListener('change', () => {
    $('send-file').hidden = sendAs() !== 'blob';
    $('send-text').hidden = sendAs() === 'blob';
    checkSend();
  });
}
$('terminate').addEventListener('click', () => act(() => request('DELETE', `/v1/connections/${chosen.connection}`)));
$('detail-all').addEventListener('click', () => { allShown = true; chosen.drawn = false; drawDetail(); });
$('connections').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !chosen?.connection) return;
  event.preventDefault();
  ($('detail-actions').hidden ? $('detail-json') : $('send-text')).focus();
});
$('detail-close').addEventListener('click', hideDetail);
$('connection-filter').addEventListener('input', () => { dirty = true; });
$('show-closed').addEventListener('change', () => { dirty = true; });
$('event-filter').addEventListener('input', () => { dirty = true; });
$('clear').addEventListener('click', () => { log.clear(); dirty = true; });
$('pause').addEventListener('click', () => {
  log.paused = !log.paused;
  $('pause').setAttribute('aria-pressed', log.paused);
  write($('pause'), log.paused ? 'Resume' : 'Pause');
  dirty = true;
});
$('token-form').addEventListener('submit', () => { token.set($('token-input').value.trim()); location.reload(); });
// The address that `mooring console` prints, opened in this very tab, changes the fragment only.
addEventListener('hashchange', () => { if (location.hash.includes('token=')) location.reload(); });
$('token-dialog').addEventListener('cancel', (event) => event.preventDefault());
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && chosen && !document.querySelector('dialog[open]')) hideDetail();
  if (event.target.matches('input, textarea, select') || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === '/') { event.preventDefault(); $('connection-filter').focus(); }
  if (event.key === 'o' && !document.querySelector('dialog[open]')) { event.preventDefault(); $('open-button').click(); }
  if (event.key === 'p') $('pause').click();
});

async function start() {
  if (!token.read()) {
    try {
      await request('GET', '/v1/workers'); // mooring serve --no-auth asks for none
    } catch (error) {
      askToken(error instanceof Problem ? '' : error.message);
      return;
    }
  }
  setInterval(draw, DRAW_MS);
  poll();
  try {
    await follow(
      (lines, now) => { log.add(lines, now); dirty = true; },
      (state) => setState(state, state === 'away' ? 'service away, retrying' : 'live'),
      PAST_EVENTS,
    );
  } catch (error) {
    askToken(refused(error));
  }
}

start();
