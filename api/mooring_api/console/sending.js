// The form that sends a message: as text, as JSON, as a file.

import { request } from '/console/api.js';
import { $, once } from '/console/page.js';

const TYPES = { text: 'text/plain', object: 'application/json', blob: 'application/octet-stream' };

const sendAs = () => document.querySelector('input[name=as]:checked').value;

// Says whether what is written is what it is to be sent as; what is wrong stands below it.
export function checkMessage() {
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

let receiver = null;
const send = once($('send-result'), async (output) => {
  const kind = sendAs();
  const body = kind === 'blob' ? $('send-file').files[0] : $('send-text').value;
  if (kind === 'blob' && !body) throw new Error('Choose a file.');
  const answer = await request('POST', `/v1/connections/${receiver}/messages`, { body, type: TYPES[kind] });
  output.textContent = `${answer.queued ? 'waits to be sent' : 'sent'}, ${answer.bytes} bytes`;
  $('send-text').value = '';
});

export function sendTo(connection) {
  receiver = connection;
  return send();
}

$('send-text').addEventListener('input', checkMessage);
for (const choice of document.querySelectorAll('input[name=as]')) {
  choice.addEventListener('change', () => {
    $('send-file').hidden = sendAs() !== 'blob';
    $('send-text').hidden = sendAs() === 'blob';
    checkMessage();
  });
}
