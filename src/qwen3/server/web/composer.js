/** The field to write in, the switches beside it, and the meters below. */

import { speedOf } from './chat.js';
import { find } from './dom.js';

// Tokens of thinking; the last place of the slider is no limit.
const BUDGETS = [0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, null];
const budgetText = (budget) => (budget === null ? 'no limit' : budget.toLocaleString('en'));

export class Composer {
  #chat;
  #field = find('message');
  #changed;
  #isMeasuring = false;

  /** `changed` is called when a switch has changed the settings. */
  constructor(chat, changed) {
    this.#chat = chat;
    this.#changed = changed;
    find('composer').addEventListener('submit', (event) => (event.preventDefault(), this.#send()));
    this.#field.addEventListener('input', () => this.#fit());
    this.#field.addEventListener('keydown', (event) => this.#key(event));
    find('thinking').addEventListener('click', () => this.toggleThinking());
    find('json').addEventListener('click', () => this.#set({ useJson: !chat.settings.useJson }));
    find('budget').addEventListener('input', (event) => this.#set({ budget: BUDGETS[event.target.value] }));
    find('stop').addEventListener('click', () => {
      chat.stop();
      this.focus();
    });
    for (const name of ['changed', 'ended']) chat.addEventListener(name, () => this.show());
    chat.addEventListener('grew', () => this.#meterSoon());
    this.show();
  }

  focus() {
    this.#field.focus();
  }

  toggleThinking() {
    if (!find('thinking').disabled) this.#set({ thinking: !this.#chat.settings.thinking });
  }

  show() {
    const { settings, setup, thinks, run } = this.#chat;
    const isFixed = setup && setup.model.thinking !== 'switch';
    find('thinking').setAttribute('aria-checked', String(thinks));
    find('thinking').disabled = isFixed;
    find('thinking').title = isFixed ? `This model ${thinks ? 'always' : 'never'} thinks` : 'Let the model think before it answers';
    find('json').setAttribute('aria-checked', String(settings.useJson));
    find('json').title = settings.schema.trim() ? 'Answer by the schema in the settings' : 'Answer in JSON';
    find('budget-box').hidden = !thinks;
    const place = BUDGETS.indexOf(settings.budget);
    find('budget').value = place < 0 ? BUDGETS.length - 1 : place;
    find('budget').setAttribute('aria-valuetext', `${budgetText(settings.budget)}${settings.budget === null ? '' : ' tokens'}`);
    find('budget-text').value = budgetText(settings.budget);
    find('send').hidden = Boolean(run);
    find('stop').hidden = !run;
    const last = this.#chat.path.findLast((node) => node.role === 'assistant' && node.stats?.tokens);
    this.#meter(last?.stats ?? {}, Boolean(run));
  }

  #set(change) {
    Object.assign(this.#chat.settings, change);
    this.#changed();
    this.show();
  }

  #key(event) {
    if (event.key !== 'Enter' || event.isComposing || event.shiftKey || event.altKey) return;
    const hasModifier = event.ctrlKey || event.metaKey;
    // On a phone, Enter makes a line, and the button sends.
    const sendsOnEnter = this.#chat.settings.sendsOnEnter && !matchMedia('(pointer: coarse)').matches;
    if (!hasModifier && !sendsOnEnter) return;
    event.preventDefault();
    this.#send();
  }

  #send() {
    const text = this.#field.value;
    if (this.#chat.run || !text.trim()) return;
    this.#field.value = '';
    this.#fit();
    this.#chat.ask(text);
    this.focus();
  }

  #fit() {
    this.#field.style.height = 'auto';
    this.#field.style.height = `${this.#field.scrollHeight}px`;
  }

  /** Chunks come faster than anybody reads. */
  #meterSoon() {
    if (this.#isMeasuring) return;
    this.#isMeasuring = true;
    setTimeout(() => {
      this.#isMeasuring = false;
      if (this.#chat.run) this.#meter(this.#chat.run.answer.stats, true);
    }, 200);
  }

  #meter(stats, isRunning) {
    const speed = speedOf(stats);
    find('speed').textContent = speed ? `${speed.toFixed(1)} tokens/s${isRunning ? `, ${stats.tokens} tokens` : ''}` : '';
    const limit = this.#chat.setup?.model.max_context;
    const used = (stats.promptTokens ?? 0) + (stats.tokens ?? 0);
    const isKnown = Boolean(limit && used);
    find('context-text').textContent = isKnown ? `${used.toLocaleString('en')} of ${limit.toLocaleString('en')} tokens` : '';
    const meter = find('context-meter');
    meter.hidden = !isKnown;
    if (!isKnown) return;
    meter.setAttribute('aria-valuemax', limit);
    meter.setAttribute('aria-valuenow', used);
    meter.setAttribute('aria-valuetext', `${used} of ${limit} tokens`);
    meter.classList.toggle('full', used > 0.9 * limit);
    meter.firstElementChild.style.width = `${Math.min(100, (100 * used) / limit)}%`;
  }
}
