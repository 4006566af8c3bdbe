// The newest events, bounded in number and in size. Of each the line is kept, and what the list shows of it: what it
// carries may be large, and is read when it is looked at.

import { position } from '/console/api.js';
import { parse, summary } from '/console/words.js';

const KEPT_EVENTS = 5000;
const KEPT_CHARS = 32 * 1024 * 1024;

export class EventLog {
  constructor() {
    this.events = []; // newest last: { id, kind, connection, worker, seq, time, summary, line }
    this.chars = 0;
    this.seen = 0;
    this.frozen = null;
  }

  // What stands up to position `now` is history: it does not count as seen, and that more of it is not kept is no gap.
  add(lines, now = 0) {
    for (const line of lines) {
      const event = parse(line);
      const { id, kind, connection, worker, seq, time } = event;
      const old = now > 0 && position(id) <= now;
      if (old && kind === 'gap') continue;
      if (!old) this.seen += 1;
      this.events.push({ id, kind, connection, worker, seq, time, summary: summary(event), line });
      this.chars += line.length;
    }
    if (this.events.length > KEPT_EVENTS * 1.2 || this.chars > KEPT_CHARS) this.forgetOldest();
  }

  forgetOldest() {
    const { length } = this.events;
    let count = Math.max(0, length - KEPT_EVENTS);
    for (let at = 0; at < count; at += 1) this.chars -= this.events[at].line.length;
    for (; count < length - 1 && this.chars > KEPT_CHARS; count += 1) this.chars -= this.events[count].line.length;
    this.events.splice(0, count);
  }

  clear() {
    this.events = [];
    this.chars = 0;
    if (this.frozen) this.frozen = [];
  }

  // Paused, the list holds still, and what comes is kept all the same.
  set paused(value) { this.frozen = value ? this.events.slice() : null; }
  get paused() { return this.frozen !== null; }

  // The newest first.
  containing(text) {
    const source = this.frozen ?? this.events;
    const wanted = text.trim().toLowerCase();
    const found = [];
    for (let at = source.length - 1; at >= 0; at -= 1) {
      const event = source[at];
      if (!wanted || `${event.kind} ${event.connection ?? ''} ${event.worker ?? ''} ${event.summary}`.toLowerCase().includes(wanted)) found.push(event);
    }
    return found;
  }
}
