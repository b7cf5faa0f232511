/** Memory against context as stacked areas, drawn as SVG. It draws the numbers it is given; a table beside it says them. */

import { svg } from './dom.js';

const WIDTH = 720, HEIGHT = 300;
const LEFT = 48, RIGHT = 16, TOP = 24, BOTTOM = 42;
const GIB = 2 ** 30;

export const PARTS = [['weights', 'Weights'], ['kv_cache', 'KV cache'], ['activations', 'Activations'], ['runtime', 'Runtime']];

export const inGib = (bytes) => (bytes / GIB).toLocaleString('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 });
export const inTokens = (count) => (count >= 1024 && count % 1024 === 0 ? `${count / 1024}k` : String(count));

/** `estimates` by growing context, which has a logarithmic axis; `marked` is the one that is chosen. */
export function chart(estimates, marked, title) {
  const contexts = estimates.map(({ context }) => context);
  const [first, last] = [Math.log2(contexts[0]), Math.log2(contexts.at(-1))];
  const top = niceTop(Math.max(...estimates.map(({ bytes }) => bytes.total)) / GIB);
  const x = (context) => LEFT + ((Math.log2(context) - first) / (last - first)) * (WIDTH - LEFT - RIGHT);
  const y = (bytes) => HEIGHT - BOTTOM - (bytes / GIB / top) * (HEIGHT - TOP - BOTTOM);

  let below = estimates.map(() => 0);
  const areas = PARTS.map(([part]) => {
    const above = estimates.map(({ bytes }, i) => below[i] + bytes[part]);
    const up = above.map((bytes, i) => `${x(contexts[i])},${y(bytes)}`);
    const down = below.map((bytes, i) => `${x(contexts[i])},${y(bytes)}`).reverse();
    below = above;
    return svg('polygon', { points: [...up, ...down].join(' '), class: `part ${part}` });
  });
  const chosen = estimates.find(({ context }) => context === marked);
  return svg(
    'svg',
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': title, class: 'chart' },
    svg('title', {}, title),
    ...ticks(top).map((gib) => svg('g', {}, svg('line', { class: 'grid', x1: LEFT, x2: WIDTH - RIGHT, y1: y(gib * GIB), y2: y(gib * GIB) }), label(LEFT - 8, y(gib * GIB) + 4, 'end', String(gib)))),
    ...areas,
    ...contexts.filter((context) => Number.isInteger(Math.log2(context))).map((context) => label(x(context), HEIGHT - BOTTOM + 18, 'middle', inTokens(context))),
    chosen && svg('line', { class: 'marked', x1: x(marked), x2: x(marked), y1: TOP, y2: HEIGHT - BOTTOM }),
    chosen && svg('circle', { class: 'marked', cx: x(marked), cy: y(chosen.bytes.total), r: 4 }),
    label(LEFT, HEIGHT - 4, 'start', 'tokens of context'),
    label(LEFT, TOP - 10, 'start', 'GiB'),
  );
}

const label = (x, y, anchor, text) => svg('text', { x, y, 'text-anchor': anchor }, text);

/** The smallest of 1, 2, 3, 4, 5, 6, 8, 10 times a power of ten that holds the value. */
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value) * power;
}

/** Round numbers from 0 to `top`, which is one of those of `niceTop`. */
function ticks(top) {
  const leading = Number(top.toExponential(0)[0]);
  const count = { 1: 5, 2: 4, 3: 3, 4: 4, 5: 5, 6: 3, 8: 4 }[leading];
  return Array.from({ length: count + 1 }, (_, i) => Number(((i * top) / count).toPrecision(3)));
}
