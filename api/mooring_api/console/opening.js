// The form that opens a connection. What it offers beside URL, handler and headers is made from the facts.

import { json } from '/console/api.js';
import { addConnection, connectionList } from '/console/connections.js';
import { show } from '/console/detail.js';
import { DATA_TYPES, DEFAULT_WORKER, NAME_PATTERN, OPTIONS } from '/console/facts.js';
import { $, once } from '/console/page.js';

const form = $('open-form');
const fields = form.elements;

function headersOf(text) {
  const headers = {};
  for (const line of text.split('\n')) {
    const [name, ...rest] = line.split(':');
    if (!rest.length) continue;
    const value = rest.join(':').trim();
    headers[name.trim()] = name.trim() in headers ? [headers[name.trim()], value].flat() : value;
  }
  return headers;
}

// What was said: what was left out is for the handler, or has its default.
function body() {
  const said = { url: fields.url.value, dataType: fields.dataType.value };
  if (fields.name.value) said.name = fields.name.value;
  if (fields.worker.value) said.worker = fields.worker.value;
  if (fields.handler.value) said.handler = { name: fields.handler.value };
  if (fields.reconnect.value) said.reconnect = JSON.parse(fields.reconnect.value); // empty: as the handler says
  const headers = headersOf(fields.headers.value);
  if (Object.keys(headers).length) said.headers = headers;
  for (const { key, kind } of OPTIONS) {
    const { value } = fields[key];
    if (value) said[key] = kind === 'boolean' ? value === 'true' : Number(value);
  }
  return said;
}

function field({ key, kind, low, high, initial, unit, doc }) {
  const label = document.createElement('label');
  label.title = doc;
  label.append(`${key}${unit ? ` (${unit})` : ''} `);
  let input;
  if (kind === 'boolean') {
    input = document.createElement('select');
    input.append(new Option(`${initial}`, ''), new Option(`${!initial}`, `${!initial}`));
  } else {
    input = document.createElement('input');
    Object.assign(input, { type: 'number', min: low, max: high, step: kind === 'integer' ? 1 : 'any', placeholder: initial });
  }
  input.name = key;
  label.append(input);
  return label;
}

const open = once($('open-error'), async (output) => {
  output.textContent = 'connecting…';
  const record = await json('POST', '/v1/connections', body());
  output.textContent = '';
  $('open-dialog').close();
  addConnection(record);
  connectionList.chosen = record.id;
  show({ connection: record.id });
});

fields.worker.placeholder = DEFAULT_WORKER;
fields.worker.pattern = NAME_PATTERN.replace('-]', '\\-]'); // the v flag of browsers wants it escaped
fields.dataType.append(...DATA_TYPES.map((type) => new Option(type)));
$('open-more').append(...OPTIONS.map(field));
$('open-button').addEventListener('click', () => { $('open-error').textContent = ''; $('open-dialog').showModal(); });
$('open-cancel').addEventListener('click', () => $('open-dialog').close());
form.addEventListener('submit', (event) => { event.preventDefault(); open(); });
