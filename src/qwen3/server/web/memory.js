/** The memory calculator. All its numbers come from the server, which has the formulas; this shows them. */

import { getMemory, getMemoryChoices } from './api.js';
import { chart, inGib, inTokens, PARTS } from './chart.js';
import { find, h } from './dom.js';

const MIN_CONTEXT = 1024;
const STEPS = 4; // points of the chart to each doubling of the context
const start = { weights: 'bf16', kv: 'bf16', context: 8192, batch: 1, device: 'cpu' };

export class Memory {
  #panel = find('memory');
  #fields = {};
  #result = h('div', { id: 'memory-result', 'aria-live': 'polite' });
  #asking = null;
  #choices = null;
  #opening = null;

  /** Builds the form once; after a failure the next call tries again. Calls during the first wait for it. */
  show() {
    this.#opening ??= this.#open();
    return this.#opening;
  }

  async #open() {
    try {
      this.#choices = await getMemoryChoices();
    } catch (error) {
      this.#opening = null;
      this.#panel.replaceChildren(h('div', { class: 'memory-page' }, h('p', { class: 'hint warn', role: 'alert' }, error.message)));
      return;
    }
    this.#build(this.#choices);
    this.#ask();
  }

  #build({ models, weights, kv, max_context: limit }) {
    const [served, ...official] = models;
    const choice = (name, label, values, texts = {}) => this.#field(name, label, h('select', { id: `memory-${name}` }, ...values.map((value) => h('option', { value }, texts[value] ?? value))));
    const number = (name, label, properties) => this.#field(name, label, h('input', { type: 'number', id: `memory-${name}`, required: true, step: 1, ...properties }));
    const form = h('form', { class: 'memory-form', onsubmit: (event) => event.preventDefault() },
      choice('model', 'Model', models, { [served]: `${served} (running here)` }),
      choice('weights', 'Weights', weights),
      choice('kv', 'KV cache', kv),
      number('context', 'Context', { min: 1, max: limit, list: 'contexts' }),
      number('batch', 'Sequences', { min: 1, max: 4096 }),
      choice('device', 'Device', ['cpu', 'cuda'], { cpu: 'CPU', cuda: 'GPU' }),
      h('datalist', { id: 'contexts' }, ...steps(limit, 1).map((value) => h('option', { value }))));
    for (const [name, value] of Object.entries(start)) this.#fields[name].value = value;
    // Of a toy there is little to see.
    this.#fields.model.value = official.find((name) => name === 'Qwen3-4B') && served === 'builtin' ? 'Qwen3-4B' : served;
    this.#panel.replaceChildren(h('div', { class: 'memory-page' },
      h('h2', {}, 'What a model needs, and where it fits'),
      h('p', { class: 'hint' }, 'The figures of ', h('code', {}, 'qwen3 memory'), ', for inference.'), form, this.#result));
  }

  #field(name, label, control) {
    this.#fields[name] = control;
    let timer;
    control.addEventListener('input', () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#ask(), 200);
    });
    return h('label', { class: 'field' }, label, control);
  }

  async #ask() {
    this.#asking?.abort();
    const fields = Object.values(this.#fields);
    if (!fields.every((field) => field.checkValidity())) {
      this.#result.replaceChildren(h('p', { class: 'hint warn' }, 'Context and sequences are whole numbers within their bounds.'));
      return;
    }
    this.#asking = new AbortController();
    const query = Object.fromEntries(Object.entries(this.#fields).map(([name, field]) => [name, field.value]));
    const context = Number(query.context);
    const contexts = new Set([...steps(this.#choices.max_context, STEPS), context]);
    const sorted = [...contexts].sort((one, other) => one - other);
    try {
      const pairs = [...Object.entries(query).filter(([name]) => name !== 'context'), ...sorted.map((each) => ['context', each])];
      const report = await getMemory(pairs, this.#asking.signal);
      this.#result.replaceChildren(...reportNodes(report, context, query));
    } catch (error) {
      if (error.name === 'AbortError') return;
      this.#result.replaceChildren(h('p', { class: 'hint warn', role: 'alert' }, error.message));
    }
  }
}

/** Contexts from MIN_CONTEXT to `limit`, so many to each doubling. */
function steps(limit, perDoubling) {
  const count = perDoubling * Math.floor(Math.log2(limit / MIN_CONTEXT));
  return Array.from({ length: count + 1 }, (_, i) => Math.round(MIN_CONTEXT * 2 ** (i / perDoubling)));
}

function reportNodes(report, context, query) {
  const chosen = report.estimates.find((each) => each.context === context);
  const { bytes } = chosen;
  const title = `Memory of ${report.model}: ${inGib(report.estimates[0].bytes.total)} GiB at ${inTokens(report.estimates[0].context)} tokens, ${inGib(bytes.total)} GiB at ${inTokens(context)}, ${inGib(report.estimates.at(-1).bytes.total)} GiB at ${inTokens(report.estimates.at(-1).context)}`;
  const isBeyond = context > report.max_context;
  return [
    h('p', { class: 'total' }, h('strong', {}, `${inGib(bytes.total)} GiB`), ` for ${context.toLocaleString('en')} tokens${report.batch > 1 ? ` × ${report.batch} sequences` : ''}`),
    isBeyond && h('p', { class: 'hint warn' }, `Beyond the model's own ${report.max_context.toLocaleString('en')} tokens: needs YaRN or another version.`),
    h('div', { class: 'memory-columns' },
      table('What it is made of', ['Part', 'GiB', 'Share'], [
        ...PARTS.map(([part, label]) => [[h('i', { class: `swatch ${part}` }), label], inGib(bytes[part]), `${((100 * bytes[part]) / bytes.total).toFixed(1)} %`]),
        ['Total', inGib(bytes.total), ''],
      ]),
      h('figure', {}, h('figcaption', {}, 'Memory by context'), chart(report.estimates, context, title))),
    h('details', { class: 'numbers' }, h('summary', {}, 'The chart as a table'),
      table('GiB by tokens of context', ['Tokens', ...PARTS.map(([, label]) => label), 'Total'],
        report.estimates.filter((each) => each === chosen || Number.isInteger(Math.log2(each.context))).map((each) => [each.context.toLocaleString('en'), ...PARTS.map(([part]) => inGib(each.bytes[part])), inGib(each.bytes.total)]))),
    table('What fits where', ['Machine', 'Usable GiB', 'Longest context', `${inTokens(context)} tokens`], report.machines.map((each) => {
      const longest = each.longest_context[query.weights];
      const fits = longest >= context;
      return [each.machine, inGib(each.usable_bytes), longest ? longest.toLocaleString('en') : 'does not fit', h('span', { class: fits ? 'yes' : 'no' }, fits ? 'fits' : 'too large')];
    })),
  ].filter(Boolean);
}

function table(caption, headings, rows) {
  const body = rows.map(([name, ...cells]) => h('tr', {}, h('th', { scope: 'row' }, ...[name].flat()), ...cells.map((cell) => h('td', {}, cell))));
  return h('div', { class: 'table', tabindex: 0, role: 'region', 'aria-label': caption },
    h('table', {}, h('caption', {}, caption), h('thead', {}, h('tr', {}, ...headings.map((each) => h('th', { scope: 'col' }, each)))), h('tbody', {}, ...body)));
}
