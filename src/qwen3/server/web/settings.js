/** The settings dialog. What is changed there holds from the next message on; there is nothing to confirm. */

import { setKey } from './api.js';
import { button, find, h, toast } from './dom.js';

const SAMPLING = [
  ['temperature', 'Temperature', { min: 0, max: 2, step: 0.05 }],
  ['top_p', 'Top p', { min: 0.01, max: 1, step: 0.01 }],
  ['top_k', 'Top k', { min: 0, max: 1000, step: 1 }],
  ['min_p', 'Min p', { min: 0, max: 1, step: 0.01 }],
  ['presence_penalty', 'Presence penalty', { min: -2, max: 2, step: 0.1 }],
];
const TOOLS_EXAMPLE = '[{"type": "function", "function": {"name": "weather", "description": "The weather of a city",\n  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]';
const SCHEMA_EXAMPLE = '{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},\n  "required": ["name", "age"]}';

export class Settings {
  #chat;
  #changed;
  #dialog = find('settings');

  /** `changed` is called after each change. */
  constructor(chat, changed) {
    this.#chat = chat;
    this.#changed = changed;
    find('show-settings').addEventListener('click', () => this.toggle());
  }

  toggle() {
    if (this.#dialog.open) this.#dialog.close();
    else {
      this.#build();
      this.#dialog.showModal();
    }
  }

  #build() {
    this.#dialog.replaceChildren(
      dialogHead('settings-title', 'Settings', this.#dialog),
      section('System prompt', 'Of this conversation.', this.#system()),
      section('Sampling', 'Recommended are the values that come with the model.',
        h('div', { class: 'columns' }, this.#sampling('thinking', 'With thinking'), this.#sampling('plain', 'Without thinking'))),
      section('Limits', null, h('div', { class: 'columns' },
        this.#number('maxTokens', 'Longest answer, tokens', { min: 1, step: 1, placeholder: 'what the context leaves' }),
        this.#number('seed', 'Seed', { step: 1, placeholder: 'another each time' }))),
      section('Structured answers', 'An answer in JSON; by a JSON schema, if you give one.',
        this.#check('useJson', 'Answer in JSON'),
        this.#json('schema', 'JSON schema', SCHEMA_EXAMPLE, (value) => typeof value === 'object' && !Array.isArray(value), 'a schema is a JSON object')),
      section('Tools', 'Functions that the model may call. You give the results.',
        this.#check('useTools', 'Offer tools'),
        this.#json('tools', 'Functions, in the form of OpenAI', TOOLS_EXAMPLE, (value) => Array.isArray(value) && value.every((tool) => tool?.function?.name), 'tools are a JSON list of functions')),
      section('This page', null,
        this.#check('sendsOnEnter', 'Enter sends, Shift+Enter makes a line'),
        h('p', { class: 'hint' }, `qwen3 ${this.#chat.setup?.version ?? ''}. Nothing on this page loads from another place than this server.`)),
    );
  }

  #set(change) {
    Object.assign(this.#chat.settings, change);
    this.#changed();
  }

  #system() {
    const area = h('textarea', { rows: 3, id: 'system', 'aria-label': 'System prompt', placeholder: 'None' });
    const { conversation, settings } = this.#chat;
    area.value = conversation.system;
    area.addEventListener('input', () => {
      conversation.system = area.value;
      if (conversation.title) this.#chat.store.put(conversation);
    });
    const keep = button('Use for new conversations', null, () => {
      this.#set({ system: area.value });
      toast(settings.system.trim() ? 'New conversations begin with this system prompt.' : 'New conversations begin without a system prompt.');
    });
    return [area, h('div', { class: 'row' }, keep)];
  }

  #sampling(mode, title) {
    const recommended = this.#chat.setup?.sampling[mode] ?? {};
    const inputs = {};
    const preset = h('select', { id: `${mode}-preset`, 'aria-label': `Sampling ${title.toLowerCase()}` }, h('option', { value: 'recommended' }, 'Recommended'), h('option', { value: 'custom' }, 'Custom'));
    const warning = h('p', { class: 'hint warn', role: 'status' });
    const show = () => {
      const custom = this.#chat.settings.sampling[mode];
      preset.value = custom ? 'custom' : 'recommended';
      for (const [name] of SAMPLING) inputs[name].value = (custom ?? recommended)[name] ?? '';
      warning.textContent = mode === 'thinking' && custom?.temperature === 0 ? 'Thinking at temperature 0 tends to repeat itself without end.' : '';
    };
    const keep = (values) => {
      this.#set({ sampling: { ...this.#chat.settings.sampling, [mode]: values } });
      show();
    };
    const fields = SAMPLING.map(([name, label, range]) => {
      inputs[name] = h('input', { type: 'number', id: `${mode}-${name}`, ...range });
      inputs[name].addEventListener('change', () => {
        const value = inputs[name].valueAsNumber;
        const isGood = inputs[name].checkValidity() || inputs[name].validity.stepMismatch;
        if (Number.isNaN(value) || !isGood) show();
        else keep({ ...recommended, ...this.#chat.settings.sampling[mode], [name]: value });
      });
      return h('label', { class: 'field' }, label, inputs[name]);
    });
    preset.addEventListener('change', () => keep(preset.value === 'custom' ? { ...recommended } : null));
    show();
    return h('fieldset', {}, h('legend', {}, title), preset, ...fields, warning);
  }

  #number(name, label, properties) {
    const input = h('input', { type: 'number', ...properties });
    input.value = this.#chat.settings[name] ?? '';
    input.addEventListener('change', () => {
      if (!input.checkValidity()) input.value = this.#chat.settings[name] ?? '';
      else this.#set({ [name]: input.value === '' ? null : input.valueAsNumber });
    });
    return h('label', { class: 'field' }, label, input);
  }

  #check(name, label) {
    const input = h('input', { type: 'checkbox', id: `set-${name}`, onchange: () => this.#set({ [name]: input.checked }) });
    input.checked = this.#chat.settings[name];
    return h('label', { class: 'check' }, input, label);
  }

  /** A field whose text is kept when it is empty or good JSON. */
  #json(name, label, example, isGood, fault) {
    const area = h('textarea', { rows: 5, class: 'mono', id: `set-${name}`, 'aria-label': label, placeholder: example, spellcheck: 'false', 'aria-describedby': `set-${name}-fault` });
    const message = h('p', { class: 'hint warn', role: 'status', id: `set-${name}-fault` });
    area.value = this.#chat.settings[name];
    area.addEventListener('input', () => {
      message.textContent = jsonFault(area.value, isGood, fault);
      area.toggleAttribute('aria-invalid', Boolean(message.textContent));
      if (!message.textContent) this.#set({ [name]: area.value });
    });
    return [area, message];
  }
}

function jsonFault(text, isGood, fault) {
  if (!text.trim()) return '';
  try {
    return isGood(JSON.parse(text)) ? '' : `Not used yet: ${fault}.`;
  } catch (error) {
    return `Not used yet: ${error.message}`;
  }
}

const section = (title, hint, ...content) => h('section', {}, h('h3', {}, title), hint && h('p', { class: 'hint' }, hint), ...content.flat());

export function dialogHead(id, title, dialog) {
  return h('div', { class: 'dialog-head' }, h('h2', { id }, title), button('Close', 'close', () => dialog.close(), { isBare: true, class: 'plain' }));
}

/** Asks for the server's key; gives whether there is one to try. */
export function askForKey() {
  const dialog = find('key');
  if (dialog.open) return Promise.resolve(false);
  const input = h('input', { type: 'password', id: 'key-field', autocomplete: 'current-password', required: true });
  return new Promise((resolve) => {
    const submit = (event) => {
      event.preventDefault();
      setKey(input.value);
      dialog.close('given');
    };
    dialog.replaceChildren(
      dialogHead('key-title', 'This server wants a key', dialog),
      h('form', { onsubmit: submit },
        h('label', { class: 'field' }, 'Key', input),
        h('p', { class: 'hint' }, 'It stays in this tab of the browser and is forgotten with it.'),
        h('div', { class: 'row' }, h('button', { type: 'submit', class: 'primary' }, 'Use the key'))),
    );
    dialog.returnValue = '';
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'given'), { once: true });
    dialog.showModal();
    input.focus();
  });
}
