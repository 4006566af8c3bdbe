// Small charts. A row's chart is made once, with its row, and gets new data when the row shows another connection.

import uPlot from '/console/vendor/uplot/uPlot.esm.js';

export const POINTS = 60;

// A canvas cannot read light-dark(): a probe in the page can.
function colour(name) {
  const probe = document.createElement('span');
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const stroke = () => colour('--accent');

export function spark(element, width, height) {
  return new uPlot({
    width, height, legend: { show: false }, cursor: { show: false }, padding: [2, 0, 2, 0],
    scales: { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(1, high)] } },
    axes: [{ show: false }, { show: false }],
    series: [{}, { stroke, width: 1.25, points: { show: false } }],
  }, [[], []], element);
}

export function large(element, width, height) {
  const axis = { stroke: () => colour('--soft'), grid: { stroke: () => '#8883', width: 1 }, ticks: { show: false }, font: '11px system-ui', size: 34 };
  return new uPlot({
    width, height, legend: { show: false }, cursor: { show: false }, padding: [6, 4, 8, 0],
    scales: { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(1, high)] } },
    axes: [{ show: false }, axis],
    series: [{}, { stroke, width: 1.5, points: { show: false } }],
  }, [[], []], element);
}

const XS = Array.from({ length: POINTS }, (_, at) => at);

// The last POINTS rates, the newest at the right.
export class History {
  constructor() { this.values = new Array(POINTS).fill(0); }
  push(value) { this.values.push(value); this.values.shift(); }
  get data() { return [XS, this.values]; }
}
