/**
 * A conversation is a tree of messages: editing a question or asking for another answer adds a branch beside the old
 * one. Each message remembers which of its branches is shown; the shown path is what is sent. Plain data and functions
 * over it: it knows nothing of the document and of where conversations are kept.
 */

const ROOT = 'root';
const FORMAT = 'qwen3-chat';

const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, '0')).join('');

export function newConversation(system = '') {
  const now = Date.now();
  return { id: newId(), title: '', system, created: now, updated: now, nodes: { [ROOT]: { id: ROOT, children: [], shown: 0 } } };
}

/** Adds a message below `parent` and shows it. */
export function addMessage(conversation, parentId, message) {
  const node = { id: newId(), parent: parentId, children: [], shown: 0, created: Date.now(), ...message };
  const parent = conversation.nodes[parentId];
  parent.shown = parent.children.push(node.id) - 1;
  conversation.nodes[node.id] = node;
  conversation.updated = node.created;
  conversation.title ||= message.role === 'user' ? titleOf(message.content) : '';
  return node;
}

const titleOf = (text) => {
  const line = text.trim().split('\n', 1)[0];
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
};

/** The shown messages, first to last. */
export function shownPath(conversation) {
  const path = [];
  let node = conversation.nodes[ROOT];
  while (node.children.length) {
    node = conversation.nodes[node.children[node.shown]];
    path.push(node);
  }
  return path;
}

/** The messages from the first one down to this one. */
export function pathTo(conversation, id) {
  const path = [];
  for (let node = conversation.nodes[id]; node.id !== ROOT; node = conversation.nodes[node.parent]) path.unshift(node);
  return path;
}

export const lastId = (conversation) => shownPath(conversation).at(-1)?.id ?? ROOT;

/** Which of its parent's branches a message is, and of how many. */
export function place(conversation, id) {
  const { children } = conversation.nodes[conversation.nodes[id].parent];
  return { index: children.indexOf(id), count: children.length };
}

/** Shows the branch `step` places beside this message. */
export function showSibling(conversation, id, step) {
  const parent = conversation.nodes[conversation.nodes[id].parent];
  const index = parent.children.indexOf(id) + step;
  if (index < 0 || index >= parent.children.length) return false;
  parent.shown = index;
  return true;
}

/** Removes a message of which nothing came. */
export function dropMessage(conversation, id) {
  const parent = conversation.nodes[conversation.nodes[id].parent];
  parent.children = parent.children.filter((child) => child !== id);
  parent.shown = Math.max(0, parent.children.length - 1);
  delete conversation.nodes[id];
}

/** A conversation of its own that begins with the messages down to this one. */
export function branchOff(conversation, id) {
  const copy = newConversation(conversation.system);
  let parent = ROOT;
  for (const { id: _, parent: __, children, shown, ...message } of pathTo(conversation, id)) {
    parent = addMessage(copy, parent, structuredClone(message)).id;
  }
  copy.title = `${conversation.title} (branch)`;
  copy.updated = Date.now();
  return copy;
}

/** What is sent to ask for what follows `id`: messages in OpenAI's form. Answers that never began are left out. */
export function toMessages(conversation, id) {
  const messages = conversation.system.trim() ? [{ role: 'system', content: conversation.system }] : [];
  for (const node of pathTo(conversation, id)) {
    if (node.role === 'user') messages.push({ role: 'user', content: node.content });
    if (node.role === 'tool') messages.push({ role: 'tool', tool_call_id: node.callId, content: node.content });
    if (node.role === 'assistant' && (node.content || node.reasoning || node.calls?.length)) messages.push(toAnswer(node));
  }
  return messages;
}

const toAnswer = ({ content, reasoning, calls }) => ({
  role: 'assistant',
  content,
  ...(reasoning && { reasoning_content: reasoning }),
  ...(calls?.length && {
    tool_calls: calls.map(({ id, name, arguments: text }) => ({ id, type: 'function', function: { name, arguments: text } })),
  }),
});

/** All words of a conversation, for searching. */
export function textOf(conversation) {
  const words = Object.values(conversation.nodes).map((node) => `${node.content ?? ''} ${node.reasoning ?? ''}`);
  return [conversation.title, conversation.system, ...words].join(' ').toLowerCase();
}

// ---- Files ---------------------------------------------------------------------------------------------------------

/** The whole tree; and the shown path as `messages`, which `qwen3 chat` and other programs read. */
export function toJson(conversation) {
  const { title, created, updated, system, nodes } = conversation;
  const messages = toMessages(conversation, lastId(conversation));
  return { format: FORMAT, version: 1, title, created, updated, messages, system, nodes };
}

export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title || 'Conversation'}`];
  if (conversation.system.trim()) parts.push('## System', conversation.system);
  for (const node of shownPath(conversation)) {
    parts.push(`## ${{ user: 'User', assistant: 'Assistant', tool: 'Tool result' }[node.role]}`);
    if (node.reasoning) parts.push(`<details><summary>Thinking</summary>\n\n${node.reasoning.trim()}\n\n</details>`);
    if (node.content) parts.push(node.content.trim());
    for (const call of node.calls ?? []) parts.push(`Calls \`${call.name}\`:`, `\`\`\`json\n${call.arguments}\n\`\`\``);
  }
  return `${parts.join('\n\n')}\n`;
}

/** Conversations of a file: one that this page wrote, a list of them, or any JSON with messages in OpenAI's form. */
export function fromJson(value) {
  if (Array.isArray(value) && value.every((item) => item?.messages || item?.nodes)) return value.flatMap(fromJson);
  if (value?.format === FORMAT) return [checked(value)];
  const messages = Array.isArray(value) ? value : value?.messages;
  if (!Array.isArray(messages) || !messages.length) throw new Error('it holds no list of messages');
  return [fromMessages(messages)];
}

function fromMessages(messages) {
  const conversation = newConversation();
  let parent = ROOT;
  for (const message of messages) {
    const { role } = message ?? {};
    const content = asText(message?.content);
    if (role === 'system' || role === 'developer') conversation.system = content;
    else if (role === 'user' || role === 'assistant' || role === 'tool') {
      const extra = role === 'tool' ? { callId: asText(message.tool_call_id) } : {};
      if (role === 'assistant') {
        extra.finish = 'stop';
        extra.reasoning = asText(message.reasoning_content ?? message.reasoning);
        extra.calls = asCalls((message.tool_calls ?? []).map((call) => ({ id: call.id, ...call.function })));
      }
      parent = addMessage(conversation, parent, { role, content, ...extra }).id;
    } else throw new Error(`a message has the role ${JSON.stringify(role)}`);
  }
  return conversation;
}

/** A written tree, rebuilt from what is known of it: whatever else a file holds is not kept. */
function checked({ title, system, nodes, created, updated }) {
  const conversation = newConversation(asText(system));
  const todo = [[ROOT, nodes?.[ROOT]]];
  const seen = new Set([ROOT]);
  while (todo.length) {
    const [parent, from] = todo.pop();
    if (!Array.isArray(from?.children)) throw new Error('its messages are not a tree');
    for (const id of from.children) {
      const child = Object.hasOwn(nodes, id) && !seen.has(id) ? nodes[id] : null;
      if (!['user', 'assistant', 'tool'].includes(child?.role)) throw new Error(`its message ${JSON.stringify(id)} is damaged`);
      seen.add(id);
      todo.push([addMessage(conversation, parent, known(child)).id, child]);
    }
    const node = conversation.nodes[parent];
    node.shown = Math.min(Math.max(0, Math.trunc(asNumber(from.shown))), Math.max(0, node.children.length - 1));
  }
  conversation.title = asText(title) || conversation.title;
  return Object.assign(conversation, { created: asNumber(created), updated: asNumber(updated) });
}

function known(node) {
  const message = { role: node.role, content: asText(node.content), created: asNumber(node.created) };
  if (node.role === 'tool') message.callId = asText(node.callId);
  if (node.role !== 'assistant') return message;
  const stats = Object.fromEntries(Object.entries(node.stats ?? {}).filter(([, number]) => Number.isFinite(number)));
  const { reasoning, finish, calls, isJson } = node;
  return { ...message, reasoning: asText(reasoning), finish: asText(finish), calls: asCalls(calls), isJson: isJson === true, stats };
}

const asText = (value) => {
  if (Array.isArray(value)) return value.map((part) => asText(part?.text)).join('');
  return typeof value === 'string' ? value : '';
};
const asNumber = (value) => (Number.isFinite(value) ? value : 0);
const asCalls = (calls) =>
  (Array.isArray(calls) ? calls : []).map((call) => ({
    id: asText(call?.id), name: asText(call?.name), arguments: asText(call?.arguments),
  }));
