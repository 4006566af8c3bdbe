// The console: what is there is polled, what happens is followed; both are drawn at most ten times a second. The parts of the page
// set themselves up: connections, workers, hooks, events, detail (with sending, asking), opening, access. None imports one that uses it.

import { askToken, refused } from '/console/access.js';
import { Problem, breakStream, follow, isRefusal, request, token } from '/console/api.js';
import { drawConnections, pollConnections } from '/console/connections.js';
import { drawDetail, hide, isShown } from '/console/detail.js';
import { addEvents, drawEventRate, drawEvents } from '/console/events.js';
import { pollHooks } from '/console/hooks.js';
import '/console/opening.js';
import { $, setState, takeTouched, touch } from '/console/page.js';
import { pollWorkers } from '/console/workers.js';

const POLL_MS = 1000;
const DRAW_MS = 100;
const PAST_EVENTS = 100; // that the list begins with

async function poll() {
  for (;;) {
    if (!document.hidden) {
      try {
        await Promise.all([pollConnections(), pollWorkers(), pollHooks()]);
        touch();
      } catch (error) {
        if (error instanceof Problem && isRefusal(error)) return askToken(refused(error));
        if (!(error instanceof Problem)) breakStream();
      }
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function draw() {
  if (!document.hidden && takeTouched()) {
    drawConnections();
    drawEvents();
    drawDetail();
  }
  drawEventRate();
}

document.addEventListener('keydown', (event) => {
  const asked = document.querySelector('dialog[open]') !== null;
  if (event.key === 'Escape' && isShown() && !asked) hide();
  if (event.target.matches('input, textarea, select') || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === '/') { event.preventDefault(); $('connection-filter').focus(); }
  if (event.key === 'o' && !asked) { event.preventDefault(); $('open-button').click(); }
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
    await follow(addEvents, (state) => setState(state, state === 'away' ? 'service away, retrying' : 'live'), PAST_EVENTS);
  } catch (error) {
    askToken(refused(error));
  }
}

start();
