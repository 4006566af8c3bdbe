// The hooks that there are: polled, drawn; one of them in a dialog, with its last attempts, what it holds, and what can be done.

import { json, request } from '/console/api.js';
import { TONES } from '/console/facts.js';
import { $, act, confirmed, write } from '/console/page.js';
import { bytes, time } from '/console/words.js';

const hooks = new Map(); // name → { record, element }
const ATTEMPTS = 10;

let shown = ''; // the one in the dialog

export async function pollHooks() {
  const found = (await request('GET', '/v1/hooks')).hooks;
  const names = new Set(found.map((record) => record.name));
  for (const [name, hook] of hooks) {
    if (!names.has(name)) {
      hook.element.remove();
      hooks.delete(name);
    }
  }
  for (const record of found) {
    const hook = hooks.get(record.name) ?? add(record);
    hook.record = record;
    draw(hook);
  }
  $('hooks-section').hidden = !found.length;
  if ($('hook-dialog').open) await look();
}

function add(record) {
  const element = document.createElement('li');
  element.innerHTML = '<button class="name"></button><div class="facts"></div>';
  element.dataset.hook = record.name;
  element.querySelector('button').addEventListener('click', () => open(record.name));
  $('hooks').append(element);
  hooks.set(record.name, { record, element });
  return hooks.get(record.name);
}

const host = (record) => new URL(record.url).host;

function draw({ record, element }) {
  const name = element.querySelector('.name');
  name.className = `name status ${record.status} tone-${TONES[record.status]}`;
  write(name, record.name);
  name.title = `${record.name} to ${host(record)}: ${record.status}${record.reason ? `, ${record.reason}` : ''}`;
  const facts = [record.status, `lag ${record.lag.toLocaleString('en')}`, host(record)];
  if (record.skipped) facts.push(`${record.skipped} skipped`);
  write(element.querySelector('.facts'), facts.join(' · '));
}

async function open(name) {
  shown = name;
  $('hook-result').textContent = '';
  $('hook-result').className = '';
  await act(look);
  $('hook-dialog').showModal();
}

const path = (verb) => `/v1/hooks/${shown}${verb ? `/${verb}` : ''}`;

async function look() {
  const name = shown;
  const [record, { attempts }] = await Promise.all([request('GET', path()), request('GET', `${path('attempts')}?limit=${ATTEMPTS}`)]);
  if (name !== shown) return;
  write($('hook-title'), `Hook ${record.name}`);
  const words = [record.status, record.reason, `to ${host(record)}`, `${record.delivered.toLocaleString('en')} delivered`, `lag ${record.lag.toLocaleString('en')}`, `at ${record.cursor}`];
  if (record.nextAttemptAt) words.push(`tries again at ${time(record.nextAttemptAt)}`);
  write($('hook-words'), words.filter(Boolean).join(' · '));
  lines($('hook-attempts'), attempts.map((one) => `${time(one.at)}  ${one.status ?? 'none'}  ${one.events} event${one.events === 1 ? '' : 's'}  ${one.ms.toFixed(0)} ms  ${one.error}`));
  lines($('hook-held'), record.held.map((one) => `${one.id}  ${one.kind}  ${bytes(one.bytes)}`));
  $('hook-held-part').hidden = !record.held.length;
  write($('hook-pause'), record.status === 'Paused' ? 'Resume' : 'Pause');
  $('hook-skip').hidden = !record.held.length;
  $('hook-skip').dataset.through = record.held[0]?.id ?? '';
  $('hook-rotate').hidden = record.configured;
}

function lines(list, texts) {
  while (list.children.length > texts.length) list.lastChild.remove();
  while (list.children.length < texts.length) list.append(document.createElement('li'));
  texts.forEach((text, at) => write(list.children[at], text));
}

async function doIt(work) {
  await act(async () => {
    await work();
    await look();
  });
}

$('hook-close').addEventListener('click', () => $('hook-dialog').close());
$('hook-dialog').addEventListener('close', () => { $('hook-result').textContent = ''; }); // a secret is shown once
$('hook-test').addEventListener('click', () => doIt(async () => {
  const tested = await request('POST', path('test'));
  write($('hook-result'), `test: status ${tested.status ?? 'none'} in ${tested.ms.toFixed(0)} ms ${tested.error}`);
}));
$('hook-retry').addEventListener('click', () => doIt(() => request('POST', path('retry'))));
$('hook-pause').addEventListener('click', () => doIt(() => request('POST', path($('hook-pause').textContent.toLowerCase()))));
$('hook-skip').addEventListener('click', async () => {
  const { through } = $('hook-skip').dataset;
  const text = `The event ${through} is given up: the receiver never gets it from this hook. hookSkipped tells of it.`;
  if (await confirmed(`Skip an event of ${shown}?`, text, 'Skip')) await doIt(() => json('POST', path('skip'), { through }));
});
$('hook-rotate').addEventListener('click', async () => {
  const text = 'A new secret signs beside the old one, which ends after a day. It is shown this once.';
  if (!await confirmed(`Another secret for ${shown}?`, text, 'Rotate')) return;
  await doIt(async () => write($('hook-result'), (await json('POST', path('secrets'), {})).secret));
});
