// What is chosen in one of the two lists: what it says, and what can be done with it.

import { json, request } from '/console/api.js';
import { drawAsking, takes } from '/console/asking.js';
import { large } from '/console/charts.js';
import { connection, connectionList } from '/console/connections.js';
import { eventList } from '/console/events.js';
import { $, act, touch, write } from '/console/page.js';
import { checkMessage, sendTo } from '/console/sending.js';
import { pretty, time, why } from '/console/words.js';

const SHOWN_CHARS = 100_000; // of a JSON at first: millions at once would hold the page up

let chosen = null; // { connection: id } or { event }
let plot = null;
let allShown = false;

export function show(what) {
  chosen = what;
  allShown = false;
  if (what.connection) eventList.chosen = null;
  else connectionList.chosen = null;
  $('send-result').textContent = '';
  $('detail').hidden = false;
  document.querySelector('main').classList.add('with-detail');
  touch();
  drawDetail();
  if (matchMedia('(max-width: 900px)').matches) $('detail').scrollIntoView(); // it stands below the lists there
}

export function hide() {
  if ($('detail').contains(document.activeElement)) $(chosen.event ? 'events' : 'connections').focus();
  chosen = null;
  connectionList.chosen = eventList.chosen = null;
  $('detail').hidden = true;
  document.querySelector('main').classList.remove('with-detail');
  touch();
}

export const isShown = () => chosen !== null;

export function drawDetail() {
  if (chosen?.event) drawEvent(chosen);
  else if (chosen) drawConnection(connection(chosen.connection));
}

function drawEvent(what) {
  if (what.drawn) return; // an event never changes
  what.drawn = true;
  const { event } = what;
  getSelection().removeAllRanges();
  write($('detail-title'), event.kind);
  write($('detail-words'), event.connection ? `Connection ${event.connection}, event ${event.seq}, at ${time(event.time)}.` : `${event.worker ? `Worker ${event.worker}, at` : 'At'} ${time(event.time)}.`);
  writeJson(pretty(event.line));
  $('detail-chart').hidden = $('detail-actions').hidden = true;
}

function drawConnection(item) {
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
  $('detail-actions').hidden = ['Closing', 'Closed'].includes(record.status);
  $('send-form').hidden = !takes(record);
  drawAsking(record);
  $('reconnect').hidden = !record.reconnect;
  write($('terminate'), record.reconnect ? 'Stop' : 'Terminate');
  plot ??= large($('detail-chart'), 314, 90);
  plot.setData(item.history.data);
}

function writeJson(text) {
  const selection = getSelection();
  if (!selection.isCollapsed && $('detail-json').contains(selection.anchorNode)) return; // somebody is about to copy it
  const cut = !allShown && text.length > SHOWN_CHARS;
  write($('detail-json'), cut ? `${text.slice(0, SHOWN_CHARS)}…` : text);
  $('detail-all').hidden = !cut;
  if (cut) write($('detail-all'), `Show all ${text.length.toLocaleString('en')} characters`);
}

connectionList.onChoose = (item) => show({ connection: item.record.id });
eventList.onChoose = (event) => show({ event });
$('detail-all').addEventListener('click', () => { allShown = true; chosen.drawn = false; drawDetail(); });
$('detail-close').addEventListener('click', hide);
$('terminate').addEventListener('click', () => act(() => request('DELETE', `/v1/connections/${chosen.connection}`)));
$('reconnect').addEventListener('click', () => act(() => json('POST', `/v1/connections/${chosen.connection}/reconnect`, {})));
$('send-form').addEventListener('submit', (event) => {
  event.preventDefault();
  if (chosen?.connection && checkMessage()) sendTo(chosen.connection);
});
$('connections').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !chosen?.connection) return;
  event.preventDefault();
  ($('detail-actions').hidden || $('send-form').hidden ? $('detail-json') : $('send-text')).focus();
});
