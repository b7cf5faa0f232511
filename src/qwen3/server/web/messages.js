/** The messages of the shown path as articles, and the running answer as it grows. */

import { announce, button, copyButton, find, h, icon, toast } from './dom.js';
import { speedOf } from './chat.js';
import { CodeBlock } from './code.js';
import { place } from './conversation.js';
import { LiveMarkdown, renderMarkdown } from './markdown.js';

// Drawing may take this share of the time, however long the answer gets.
const DRAWING_SHARE = 0.25;

const count = (number) => number.toLocaleString('en');
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? '' : 's'}`;

function seconds(number) {
  if (number < 0.1) return `${Math.round(number * 1000)} ms`;
  return number < 60 ? `${number.toFixed(1)} s` : `${Math.floor(number / 60)} min ${Math.round(number % 60)} s`;
}

export class Messages {
  #chat;
  #views = new Map();
  #drawing = false;
  #scroller = find('scroller');
  #isAtEnd = true;

  constructor(chat) {
    this.#chat = chat;
    chat.addEventListener('changed', () => this.show());
    chat.addEventListener('grew', ({ detail }) => this.#draw(detail));
    chat.addEventListener('ended', ({ detail }) => this.#end(detail));
    this.#scroller.addEventListener('scroll', () => this.#noteScroll(), { passive: true });
    find('jump').addEventListener('click', () => this.toEnd());
  }

  show() {
    const path = this.#chat.path;
    const old = this.#views;
    this.#views = new Map();
    for (const node of path) {
      // Another tab may have brought the same message anew.
      const view = old.get(node.id);
      this.#views.set(node.id, view?.node === node ? view : this.#newView(node));
    }
    const articles = path.map((node, i) => {
      const view = this.#views.get(node.id);
      view.refresh(i === path.length - 1);
      return view.element;
    });
    find('messages').replaceChildren(...(articles.length ? articles : [welcome(this.#chat)]));
    this.toEnd();
  }

  toEnd() {
    this.#isAtEnd = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#noteScroll();
  }

  /** The last shown message that `accepts` it, as its view. */
  last(accepts) {
    const node = this.#chat.path.findLast(accepts);
    return node && this.#views.get(node.id);
  }

  #newView(node) {
    if (node.role === 'user') return new QuestionView(this.#chat, node);
    return node.role === 'tool' ? new ResultView(this.#chat, node) : new AnswerView(this.#chat, node);
  }

  /** Draws the running answer with the next frame, and then not again before drawing's share of the time allows it. */
  #draw(run) {
    if (this.#drawing || run.conversation !== this.#chat.conversation) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      const started = performance.now();
      this.#views.get(run.answer.id)?.grow();
      this.#follow();
      const took = performance.now() - started;
      setTimeout(() => {
        this.#drawing = false;
        // What came meanwhile.
        if (this.#chat.run === run) this.#draw(run);
      }, took / DRAWING_SHARE - took);
    });
  }

  #end(run) {
    if (run.conversation !== this.#chat.conversation) return;
    const view = this.#views.get(run.answer.id);
    view?.grow();
    view?.end();
    for (const [i, node] of this.#chat.path.entries()) this.#views.get(node.id)?.refresh(i === this.#chat.path.length - 1);
    this.#follow();
  }

  #follow() {
    if (this.#isAtEnd) this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #noteScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#isAtEnd = scrollHeight - scrollTop - clientHeight < 60;
    find('jump').hidden = this.#isAtEnd;
  }
}

function welcome(chat) {
  const model = chat.setup?.model;
  return h(
    'div',
    { class: 'welcome' },
    h('h2', {}, model ? `Chat with ${model.name}` : 'Connecting…'),
    model && h('p', {}, `${model.storage}, ${count(model.max_context)} tokens of context. Conversations stay in this browser.`),
  );
}

/** What every message has: an article with a spoken heading, a place among its branches, and actions. */
class MessageView {
  constructor(chat, node, title) {
    this.chat = chat;
    this.node = node;
    this.actions = h('div', { class: 'actions' });
    this.element = h('article', { class: `message ${node.role}` }, h('h2', { class: 'visually-hidden' }, title));
  }

  refreshActions(...actions) {
    const { index, count: versions } = place(this.chat.conversation, this.node.id);
    const step = (label, name, by, isEnd) =>
      button(label, name, () => this.chat.showSibling(this.node, by), { isBare: true, class: 'plain', disabled: isEnd });
    const switcher = versions > 1 && h(
      'div',
      { class: 'versions', role: 'group', 'aria-label': 'Versions' },
      step('Previous version', 'left', -1, index === 0),
      h('span', { 'aria-live': 'polite' }, `${index + 1} / ${versions}`),
      step('Next version', 'right', 1, index === versions - 1),
    );
    this.actions.replaceChildren(...[switcher, ...actions].filter(Boolean));
  }
}

class QuestionView extends MessageView {
  constructor(chat, node) {
    super(chat, node, 'You');
    this.text = h('div', { class: 'text' }, node.content);
    this.element.append(this.text, this.actions);
  }

  refresh() {
    const isBusy = Boolean(this.chat.run);
    this.refreshActions(
      copyButton('Copy the question', () => this.node.content),
      button('Edit', 'edit', () => this.edit(), { isBare: true, class: 'plain', disabled: isBusy }),
    );
  }

  edit() {
    const close = () => {
      form.replaceWith(this.text);
      this.actions.hidden = false;
    };
    const area = h('textarea', { 'aria-label': 'Edit the question', rows: Math.min(12, this.node.content.split('\n').length + 1) });
    area.value = this.node.content;
    const send = () => {
      close();
      this.chat.edit(this.node, area.value);
    };
    const form = h(
      'form',
      { class: 'edit', onsubmit: (event) => (event.preventDefault(), send()) },
      area,
      h('div', { class: 'row' }, button('Cancel', null, close), h('button', { class: 'primary', type: 'submit' }, 'Send')),
    );
    form.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') {
        event.stopPropagation();
        close();
        find('message').focus();
      }
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) send();
    });
    this.text.replaceWith(form);
    this.actions.hidden = true;
    area.focus();
  }
}

class ResultView extends MessageView {
  constructor(chat, node) {
    super(chat, node, 'Tool result');
    const call = chat.conversation.nodes[node.parent].calls?.find(({ id }) => id === node.callId);
    const label = h('span', { class: 'label' }, icon('tool'), call ? `Result of ${call.name}` : 'Result of a tool');
    this.element.append(label, new CodeBlock('json').show(node.content).element);
  }

  refresh() {}
}

class AnswerView extends MessageView {
  #thinking = null;
  #live = null;
  #json = null;
  #calls = [];

  constructor(chat, node) {
    super(chat, node, 'Answer');
    this.wait = h('p', { class: 'wait' }, h('i'), h('span', {}, 'Reading'));
    this.body = h('div', { class: 'prose' });
    this.calls = h('div', { class: 'calls' });
    this.notice = h('div');
    this.stats = h('span', { class: 'stats' });
    this.element.append(this.wait, this.body, this.calls, this.notice, h('div', { class: 'foot' }, this.actions, this.stats));
    this.isRunning = chat.run?.answer === node;
    this.grow();
    if (!this.isRunning) this.end();
  }

  /** Shows what the message holds by now. */
  grow() {
    const { node } = this;
    const isEmpty = !node.content && !node.reasoning && !node.calls.length;
    this.wait.hidden = !isEmpty || !this.isRunning;
    const progress = this.chat.run?.progress;
    if (progress) this.wait.lastChild.textContent = `Reading ${Math.round((100 * progress.processed) / progress.total)} %`;
    if (node.reasoning) this.#growThinking();
    if (node.content) this.#growContent();
    node.calls.forEach((call, i) => this.#growCall(call, i));
  }

  #growThinking() {
    if (!this.#thinking) {
      this.#thinking = new ThinkingView(this.chat, this.isRunning);
      this.body.before(this.#thinking.element);
      if (this.isRunning) announce('Thinking');
    }
    const { reasoning, content, calls, stats } = this.node;
    this.#thinking.show(reasoning, stats, this.isRunning && !content && !calls.length);
  }

  #growContent() {
    const { content, isJson } = this.node;
    if (isJson) {
      this.#json ??= this.#place(new CodeBlock('json'));
      this.#json.show(this.isRunning ? content : pretty(content));
    } else if (this.isRunning) {
      this.#live ??= new LiveMarkdown(this.body, (nodes) => announce(nodes.map((each) => each.textContent).join(' ').slice(0, 1000)));
      this.#live.show(content);
    } else if (!this.#live) {
      this.body.replaceChildren(renderMarkdown(content));
      this.#live = true;
    }
  }

  #place(block) {
    this.body.append(block.element);
    return block;
  }

  #growCall(call, i) {
    if (!this.#calls[i]) {
      const block = new CodeBlock('json');
      const name = h('code');
      this.#calls[i] = { block, name };
      this.calls.append(h('section', { class: 'call', 'aria-label': 'Tool call' }, h('p', { class: 'label' }, icon('tool'), 'Calls ', name), block.element));
    }
    this.#calls[i].name.textContent = call.name;
    this.#calls[i].block.show(this.isRunning ? call.arguments : pretty(call.arguments));
  }

  /** The answer is whole, or will not get any further. */
  end() {
    const wasRunning = this.isRunning;
    this.isRunning = false;
    if (wasRunning) {
      this.#live?.end();
      announce(this.node.error ? `Error: ${this.node.error.message}` : `Answer finished, ${plural(this.node.stats.tokens ?? 0, 'token')}`);
    }
    this.grow();
  }

  refresh(isLast) {
    const { node, chat } = this;
    const isBusy = Boolean(chat.run);
    this.element.setAttribute('aria-busy', String(this.isRunning));
    this.element.querySelector('.foot').hidden = this.isRunning || Boolean(node.error && !node.content && isLast);
    this.notice.replaceChildren(...(this.isRunning ? [] : this.#notices(isLast)));
    this.stats.textContent = statsText(node.stats ?? {});
    this.refreshActions(
      node.content && copyButton('Copy the answer', () => node.content),
      button('Retry', 'retry', () => chat.retry(node), { isBare: true, class: 'plain', disabled: isBusy }),
      button('Branch into a new conversation', 'branch', () => chat.branch(node), { isBare: true, class: 'plain', disabled: isBusy }),
    );
  }

  #notices(isLast) {
    const { node, chat } = this;
    if (node.error) return [errorCard(node.error, () => chat.retry(node))];
    if (!node.finish) return [h('p', { class: 'note' }, 'Interrupted.')];
    if (node.finish === 'stopped') return [h('p', { class: 'note' }, 'Stopped.')];
    if (node.finish === 'length') return [h('p', { class: 'note' }, 'Cut off: the limit of tokens was reached.')];
    return isLast && node.calls.length ? [resultForm(chat, node)] : [];
  }
}

class ThinkingView {
  #text = h('div', { class: 'thoughts', tabindex: 0, role: 'region', 'aria-label': 'Thinking' });
  #title = h('span');
  #isMoved = false; // by the reader, whose choice stays
  #shown = '';

  constructor(chat, isRunning) {
    const summary = h('summary', { onclick: () => (this.#isMoved = true) }, icon('thought'), this.#title);
    this.details = h('details', { open: isRunning }, summary, this.#text);
    this.skip = button('Answer now', 'forward', () => {
      this.skip.disabled = true;
      chat.answerNow().catch((error) => toast(error.message));
    }, { class: 'skip-thinking' });
    this.element = h('div', { class: 'thinking' }, this.details, isRunning && this.skip);
  }

  show(text, stats, isThinking) {
    if (text !== this.#shown) {
      // Text is only added, so what is there stays.
      this.#text.append(text.slice(this.#shown.length));
      this.#shown = text;
      this.#text.scrollTop = this.#text.scrollHeight;
    }
    const tokens = stats.reasoningTokens && plural(stats.reasoningTokens, 'token');
    const time = stats.thinkingSeconds !== undefined && seconds(stats.thinkingSeconds);
    this.#title.textContent = [isThinking ? 'Thinking' : 'Thought', tokens, time].filter(Boolean).join(' · ');
    this.element.classList.toggle('running', isThinking);
    if (!isThinking && this.skip.isConnected) {
      this.skip.remove();
      if (!this.#isMoved) this.details.open = false;
    }
  }
}

function statsText(stats) {
  const speed = speedOf(stats);
  return [
    stats.tokens && plural(stats.tokens, 'token'),
    speed && `${speed.toFixed(1)} tokens/s`,
    stats.firstToken !== undefined && `first after ${seconds(stats.firstToken)}`,
    stats.cachedTokens && `${count(stats.cachedTokens)} of ${count(stats.promptTokens)} prompt tokens from cache`,
  ].filter(Boolean).join(' · ');
}

const ADVICE = {
  0: 'Nothing is lost: start it again and retry.',
  401: 'The server wants its key.',
  429: 'It is busy: retry in a moment.',
  503: 'It is busy: retry in a moment.',
};

function errorCard({ status, code, message }, retry) {
  const isFull = code === 'context_length_exceeded';
  const advice = isFull ? 'Edit an earlier question to branch there, or start a new chat.' : ADVICE[status];
  const title = isFull ? 'The conversation is longer than the context' : status === 0 ? 'No connection' : 'The answer failed';
  return h(
    'div',
    { class: 'error', role: 'alert' },
    icon('alert'),
    h('div', {}, h('strong', {}, title), h('p', {}, message), advice && h('p', {}, advice)),
    button('Retry', 'retry', retry),
  );
}

function resultForm(chat, node) {
  const areas = node.calls.map((call) => h('textarea', { rows: 2, id: `result-${call.id}`, placeholder: 'What the tool returns, as JSON or text' }));
  const fields = node.calls.map((call, i) => h('label', {}, `Result of ${call.name}`, areas[i]));
  const submit = (event) => {
    event.preventDefault();
    chat.giveResults(node, areas.map((area) => area.value));
  };
  return h('form', { class: 'results', onsubmit: submit }, ...fields, h('button', { class: 'primary', type: 'submit' }, 'Send results'));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // A model's JSON may be cut off; then it is shown as it came.
    return text;
  }
}
