// The page's elements, and what every part of it needs: that something has changed, a question, a word of failure. It knows no
// part.

export const ROW_HEIGHT = 26;

export const $ = (id) => document.getElementById(id);

export function write(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}

// A row of a list: an element with a cell for each of `names`, under the last word of each.
export function cells(names) {
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

export function setState(kind, text) {
  $('state').className = kind;
  write($('state'), text);
}

// Whatever has changed is drawn with the next tick: `touch` says so, `takeTouched` says whether and begins anew.
let touched = true;
export const touch = () => { touched = true; };
export function takeTouched() {
  const was = touched;
  touched = false;
  return was;
}

let toastTimer = 0;
function toast(text) {
  $('toast').textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $('toast').textContent = ''; }, 6000);
}

export async function act(work) {
  try {
    return await work();
  } catch (error) {
    toast(error.message);
    return null;
  }
}

export function confirmed(title, text, yes) {
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

// One attempt of a form at a time: a second Enter or click is no second one. What goes wrong stands in `output`.
export function once(output, work) {
  let running = false;
  return async () => {
    if (running) return;
    running = true;
    output.className = '';
    try {
      await work(output);
    } catch (error) {
      output.className = 'bad';
      output.textContent = error.message;
    } finally {
      running = false;
    }
  };
}
