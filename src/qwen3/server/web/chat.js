/**
 * What can be done with a conversation: ask, stop, retry, edit, branch, answer a tool call. It owns the running answers;
 * whoever shows them listens to `changed` (other messages are shown) and `grew` (a message has more text).
 */

import { ApiError, endThinking, streamChat } from './api.js';
import { addMessage, branchOff, dropMessage, lastId, newConversation, shownPath, showSibling, toMessages } from './conversation.js';

const SAVE_EVERY = 2000; // ms, while an answer grows

export class Chat extends EventTarget {
  #runs = new Map(); // of the conversations that are being answered, by id
  #askForKey;

  /** `askForKey` shows the key dialog, and gives whether there is a key to try. */
  constructor(store, settings, askForKey) {
    super();
    this.store = store;
    this.settings = settings;
    this.setup = null; // what the server says of its model
    this.#askForKey = askForKey;
    this.conversation = newConversation(settings.system);
  }

  get run() {
    return this.#runs.get(this.conversation.id) ?? null;
  }

  isRunning(id) {
    return this.#runs.has(id);
  }

  get path() {
    return shownPath(this.conversation);
  }

  /** Whether the next answer may think: some models always do, some never. */
  get thinks() {
    return { always: true, never: false }[this.setup?.model.thinking] ?? this.settings.thinking;
  }

  open(conversation) {
    this.conversation = conversation;
    this.#changed();
  }

  startNew() {
    this.open(newConversation(this.settings.system));
  }

  ask(text) {
    if (this.run || !text.trim()) return false;
    return this.#continueFrom(addMessage(this.conversation, lastId(this.conversation), { role: 'user', content: text }));
  }

  /** Another answer beside this one. */
  retry(answer) {
    if (this.run) return;
    const { parent } = this.conversation.nodes[answer.id];
    if (answer.error && !answer.content && !answer.reasoning) dropMessage(this.conversation, answer.id);
    this.#continueFrom(this.conversation.nodes[parent]);
  }

  /** The question in other words, beside the old one. */
  edit(question, text) {
    if (this.run || !text.trim()) return;
    this.#continueFrom(addMessage(this.conversation, question.parent, { role: 'user', content: text }));
  }

  /** The results of an answer's tool calls, in the order of the calls. */
  giveResults(answer, results) {
    if (this.run) return;
    let parent = answer;
    answer.calls.forEach((call, i) => {
      parent = addMessage(this.conversation, parent.id, { role: 'tool', callId: call.id, content: results[i] });
    });
    this.#continueFrom(parent);
  }

  showSibling(node, step) {
    if (this.run || !showSibling(this.conversation, node.id, step)) return;
    this.#keep(this.conversation);
    this.#changed();
  }

  branch(node) {
    const copy = branchOff(this.conversation, node.id);
    this.#keep(copy);
    this.open(copy);
  }

  stop(id = this.conversation.id) {
    this.#runs.get(id)?.controller.abort();
  }

  /** Ends the thinking of the running answer, which goes on with what it has. */
  async answerNow() {
    if (this.run?.id) await endThinking(this.run.id);
  }

  #continueFrom(node) {
    const message = { role: 'assistant', content: '', reasoning: '', calls: [], isJson: this.settings.useJson, stats: {} };
    const answer = addMessage(this.conversation, node.id, message);
    const run = { conversation: this.conversation, answer, controller: new AbortController(), id: null, progress: null };
    this.#runs.set(this.conversation.id, run);
    this.#keep(this.conversation);
    this.#changed();
    return this.#answer(run, toMessages(run.conversation, node.id));
  }

  async #answer(run, messages) {
    const { answer } = run;
    try {
      await this.#stream(run, this.#body(messages));
    } catch (error) {
      answer.finish = error.name === 'AbortError' ? 'stopped' : 'error';
      if (answer.finish === 'error') {
        answer.error = { status: error.status ?? null, code: error.code ?? null, message: error.message };
        if (!(error instanceof ApiError)) console.error(error);
      }
    }
    this.#runs.delete(run.conversation.id);
    this.#save(run.conversation);
    this.dispatchEvent(new CustomEvent('ended', { detail: run }));
    if (answer.error?.status === 401 && (await this.#askForKey())) {
      if (run.conversation === this.conversation) this.retry(answer);
    }
  }

  #body(messages) {
    const { settings, thinks } = this;
    const mode = thinks ? 'thinking' : 'plain';
    const body = { messages, ...this.setup?.sampling[mode], ...settings.sampling[mode] };
    if (this.setup?.model.thinking === 'switch') body.chat_template_kwargs = { enable_thinking: thinks };
    if (thinks && settings.budget !== null) body.thinking_budget = settings.budget;
    if (settings.maxTokens !== null) body.max_tokens = settings.maxTokens;
    if (settings.seed !== null) body.seed = settings.seed;
    if (settings.useTools && settings.tools.trim()) body.tools = JSON.parse(settings.tools);
    if (settings.useJson) body.response_format = responseFormat(settings.schema);
    return body;
  }

  async #stream(run, body) {
    const { answer } = run;
    const clock = new Clock(answer.stats);
    let saved = performance.now();
    for await (const chunk of streamChat(body, run.controller.signal)) {
      run.id ??= chunk.id;
      run.progress = chunk.prompt_progress ?? null;
      if (chunk.usage) clock.count(chunk.usage);
      const [choice] = chunk.choices ?? [];
      if (choice) {
        clock.tick(choice.delta);
        addDelta(answer, choice.delta);
        answer.finish = choice.finish_reason ?? answer.finish;
      }
      this.dispatchEvent(new CustomEvent('grew', { detail: run }));
      if (performance.now() - saved > SAVE_EVERY) {
        saved = performance.now();
        this.#save(run.conversation);
      }
    }
  }

  /** Keeps what an answer has added; a conversation that was deleted meanwhile stays deleted. */
  #save(conversation) {
    if (this.store.conversations.has(conversation.id)) this.#keep(conversation);
  }

  #keep(conversation) {
    this.store.put(conversation).catch((error) => this.dispatchEvent(new CustomEvent('unsaved', { detail: error })));
  }

  #changed() {
    this.dispatchEvent(new Event('changed'));
  }
}

const responseFormat = (schema) =>
  schema.trim()
    ? { type: 'json_schema', json_schema: { name: 'answer', schema: JSON.parse(schema), strict: true } }
    : { type: 'json_object' };

function addDelta(answer, delta = {}) {
  answer.reasoning += delta.reasoning_content ?? delta.reasoning ?? '';
  answer.content += delta.content ?? '';
  for (const { index, id, function: part } of delta.tool_calls ?? []) {
    const call = (answer.calls[index] ??= { id: '', name: '', arguments: '' });
    call.id ||= id ?? '';
    call.name ||= part?.name ?? '';
    call.arguments += part?.arguments ?? '';
  }
}

/** Times of an answer, and the server's counts, which come with each chunk. */
class Clock {
  #started = performance.now();
  #thought = null; // when the thinking began
  #isThinking = false;

  constructor(stats) {
    this.stats = stats;
  }

  tick(delta = {}) {
    const { stats } = this;
    const now = (performance.now() - this.#started) / 1000;
    const isThinking = Boolean(delta.reasoning_content ?? delta.reasoning);
    if (!isThinking && !delta.content && !delta.tool_calls) return;
    stats.firstToken ??= now;
    stats.seconds = now;
    if (isThinking) this.#thought ??= now;
    if (isThinking || this.#isThinking) stats.thinkingSeconds = now - this.#thought;
    this.#isThinking = isThinking;
  }

  count(usage) {
    Object.assign(this.stats, {
      promptTokens: usage.prompt_tokens,
      cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
      tokens: usage.completion_tokens,
      reasoningTokens: usage.completion_tokens_details?.reasoning_tokens ?? 0,
    });
  }
}

/** Tokens a second once the first has come; null before there is anything to divide. */
export function speedOf(stats) {
  const seconds = stats.seconds - stats.firstToken;
  return seconds > 0.05 && stats.tokens > 1 ? (stats.tokens - 1) / seconds : null;
}
