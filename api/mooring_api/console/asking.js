// What waits to be sent on a connection, and the form that asks its peer and shows the reply.

import { request } from '/console/api.js';
import { $, act, once, write } from '/console/page.js';

const TIMEOUT_S = 15;

let asked = null; // the id of the connection that is shown

// Returns whether a message can be sent to it now: written, or had wait.
export const takes = (record) => record.status === 'Connected' || (record.whenDown === 'queue' && ['Connecting', 'Reconnecting'].includes(record.status));

export function drawAsking(record) {
  if (asked !== record.id) {
    asked = record.id;
    $('ask-result').textContent = $('ask-reply').textContent = '';
    $('ask-reply').hidden = true;
  }
  $('ask-form').hidden = record.status !== 'Connected' || !record.requests;
  const { messages, bytes } = record.queued ?? { messages: 0 };
  $('queue').hidden = !messages;
  if (messages) write($('queue-words'), `${messages === 1 ? '1 message waits' : `${messages} messages wait`} to be sent, ${bytes} byte${bytes === 1 ? '' : 's'}.`);
}

const ask = once($('ask-result'), async (output) => {
  const connection = asked;
  const body = $('ask-text').value.trim();
  JSON.parse(body); // what is wrong stands below it
  $('ask-reply').hidden = true;
  output.textContent = 'asked …';
  const show = (reply) => {
    write($('ask-reply'), JSON.stringify(reply, null, 2));
    $('ask-reply').hidden = false;
  };
  try {
    const answer = await request('POST', `/v1/connections/${connection}/requests?timeout=${TIMEOUT_S}`, { body, type: 'application/json' });
    if (connection !== asked) return;
    output.textContent = `the reply came after ${answer.ms} ms`;
    show(answer.reply);
  } catch (error) {
    if (connection !== asked) return;
    if (error.body?.reply !== undefined) show(error.body.reply);
    throw error;
  }
});

$('ask-form').addEventListener('submit', (event) => {
  event.preventDefault();
  ask();
});
$('queue-drop').addEventListener('click', () => act(() => request('DELETE', `/v1/connections/${asked}/queue`)));
