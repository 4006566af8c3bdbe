// The question for the token.

import { token } from '/console/api.js';
import { $, setState } from '/console/page.js';

export const refused = (error) => (error.status === 403
  ? 'This token may not see connections and events.'
  : 'This token is not (or no longer) valid.');

export function askToken(message) {
  setState('away', 'no token');
  $('token-error').textContent = message ?? '';
  $('token-error').className = message ? 'bad' : '';
  if (!$('token-dialog').open) $('token-dialog').showModal();
}

$('token-form').addEventListener('submit', () => { token.set($('token-input').value.trim()); location.reload(); });
$('token-dialog').addEventListener('cancel', (event) => event.preventDefault());
// The address that `mooring console` prints, opened in this very tab, changes the fragment only.
addEventListener('hashchange', () => { if (location.hash.includes('token=')) location.reload(); });
