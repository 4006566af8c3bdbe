// A list of any length of which only the visible rows exist. Rows are made once and used again.

export class VirtualList {
  // make() returns a row element; fill(row, item, index) writes into it; keyOf(item) tells items apart.
  constructor(element, { rowHeight, make, fill, keyOf, onChoose }) {
    Object.assign(this, { element, rowHeight, make, fill, keyOf, onChoose });
    this.items = [];
    this.chosen = null;
    this.rows = [];
    this.space = document.createElement('div');
    this.space.className = 'space';
    element.append(this.space);
    element.addEventListener('scroll', () => this.draw(), { passive: true });
    element.addEventListener('click', (event) => {
      const row = event.target.closest('.row');
      if (row) this.choose(Number(row.dataset.index));
    });
    element.addEventListener('keydown', (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(element);
  }

  set(items) {
    // Who has scrolled reads: what comes in above must not move the rows away. At the top one sees the newest.
    const { scrollTop } = this.element;
    const first = Math.floor(scrollTop / this.rowHeight);
    const key = scrollTop > 0 && this.items[first] ? this.keyOf(this.items[first]) : null;
    this.items = items;
    this.space.style.height = `${items.length * this.rowHeight}px`;
    if (key !== null && !(items[first] && this.keyOf(items[first]) === key)) {
      const at = items.findIndex((item) => this.keyOf(item) === key);
      if (at !== -1) this.element.scrollTop = scrollTop + (at - first) * this.rowHeight;
    }
    this.draw();
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.rowHeight) - 1);
    const all = this.items.length;
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -all, End: all }[event.key];
    if (step === undefined || !this.items.length) return;
    event.preventDefault();
    const at = this.items.findIndex((item) => this.keyOf(item) === this.chosen);
    this.choose(Math.min(this.items.length - 1, Math.max(0, at === -1 ? 0 : at + step)));
  }

  choose(index) {
    const item = this.items[index];
    if (!item) return;
    this.chosen = this.keyOf(item);
    const top = index * this.rowHeight;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + this.rowHeight > scrollTop + clientHeight) this.element.scrollTop = top + this.rowHeight - clientHeight;
    this.draw();
    this.onChoose(item);
  }

  draw() {
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / this.rowHeight));
    const count = Math.min(this.items.length - first, Math.ceil(clientHeight / this.rowHeight) + 1);
    while (this.rows.length < count) {
      const row = this.make();
      row.setAttribute('role', 'option');
      row.id = `${this.element.id}-row-${this.rows.length}`;
      this.rows.push(row);
      this.space.append(row);
    }
    this.element.removeAttribute('aria-activedescendant');
    this.rows.forEach((row, at) => {
      const index = first + at;
      const item = at < count ? this.items[index] : undefined;
      row.hidden = item === undefined;
      if (item === undefined) return;
      row.style.top = `${index * this.rowHeight}px`;
      row.dataset.index = index;
      const chosen = this.keyOf(item) === this.chosen;
      row.classList.toggle('chosen', chosen);
      row.setAttribute('aria-selected', chosen);
      if (chosen) this.element.setAttribute('aria-activedescendant', row.id);
      this.fill(row, item, index);
    });
  }
}
