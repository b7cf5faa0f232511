/** Blocks of code: highlighted, with a button that copies. highlight.js gives a tree of scopes; the nodes are ours. */

import hljs from './vendor/highlight.min.js';
import { copyButton, h } from './dom.js';

// Beyond this colours cost more than they help.
const MAX_LENGTH = 100_000;

/** Code as nodes with a class for each scope that the highlighter sees; plain text for a language it does not know. */
export function highlighted(text, language) {
  if (!hljs.getLanguage(language) || text.length > MAX_LENGTH) return [text];
  return hljs.highlight(text, { language, ignoreIllegals: true })._emitter.rootNode.children.map(toNode);
}

function toNode(part) {
  if (typeof part === 'string') return part;
  // 'title.function' is of class title; a language inside another has no class of its own.
  const scope = part.scope?.split('.')[0] ?? '';
  const name = scope && !scope.startsWith('language:') ? `code-${scope}` : null;
  return h('span', { class: name }, ...part.children.map(toNode));
}

export class CodeBlock {
  #code = h('code');
  #text = '';

  constructor(language) {
    this.language = language;
    const label = language || 'text';
    const scroller = h('pre', { tabindex: 0, role: 'region', 'aria-label': `Code, ${label}` }, this.#code);
    const copy = copyButton('Copy the code', () => this.#text);
    this.element = h('div', { class: 'code' }, h('div', { class: 'code-head' }, h('span', {}, label), copy), scroller);
  }

  show(text) {
    if (text === this.#text) return this;
    this.#text = text;
    this.#code.replaceChildren(...highlighted(text, this.language));
    return this;
  }
}
