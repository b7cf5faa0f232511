/**
 * Markdown to nodes. markdown-it reads the text into tokens, of which the nodes are built one by one: HTML in the text
 * is text, links go to the web or to mail, and images are not loaded but named.
 *
 * `LiveMarkdown` draws a text that grows. A block before the last one cannot change any more, so only the last block is
 * read and drawn again.
 */

import MarkdownIt from './vendor/markdown-it.esm.min.mjs';
import { CodeBlock } from './code.js';
import { h } from './dom.js';
import { maths, mathsRules } from './maths.js';

const SAFE_LINK = /^(https?:|mailto:)/i;

const markdown = new MarkdownIt({ html: false, linkify: true });
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
markdown.validateLink = (url) => SAFE_LINK.test(url);
markdown.use(mathsRules);

export function renderMarkdown(text) {
  return build(markdown.parse(text, {}));
}

/** Nodes of a list of tokens. */
function build(tokens) {
  const fragment = document.createDocumentFragment();
  const open = [fragment];
  for (const token of tokens) {
    if (token.hidden) continue;
    const into = open.at(-1);
    if (token.nesting === 1) {
      const node = element(token);
      into.append(token.type === 'table_open' ? h('div', { class: 'table', tabindex: 0, role: 'region', 'aria-label': 'Table' }, node) : node);
      open.push(node);
    } else if (token.nesting === -1) open.pop();
    else if (token.type === 'inline') into.append(build(token.children));
    else into.append(leaf(token));
  }
  return fragment;
}

const TAGS = new Set('p blockquote ul ol li table thead tbody tr th td em strong s'.split(' '));

function element(token) {
  if (token.type === 'link_open') return link(token.attrGet('href'));
  // The page's own headings are of the first two levels.
  if (token.type === 'heading_open') return h(`h${Math.min(6, Number(token.tag[1]) + 2)}`);
  if (!TAGS.has(token.tag)) return h('span');
  const align = /text-align:(center|right)/.exec(token.attrGet('style') ?? '');
  return h(token.tag, { start: token.tag === 'ol' ? token.attrGet('start') : null, class: align?.[1] });
}

const link = (href, ...children) => h('a', { href, target: '_blank', rel: 'noopener noreferrer nofollow' }, ...children);

function leaf(token) {
  switch (token.type) {
    case 'text': return token.content;
    case 'softbreak': return '\n';
    case 'hardbreak': return h('br');
    case 'code_inline': return h('code', {}, token.content);
    case 'hr': return h('hr');
    case 'fence': case 'code_block': return new CodeBlock(languageOf(token)).show(codeOf(token)).element;
    case 'maths': return maths(token.content, token.block || token.meta.isBlock);
    case 'image': return image(token);
    default: return token.content;
  }
}

const languageOf = (token) => token.info.trim().split(/\s/)[0].toLowerCase();
const codeOf = (token) => token.content.replace(/\n$/, '');

function image(token) {
  const source = token.attrGet('src');
  const name = `image: ${token.content || source}`;
  return /^https?:/i.test(source) ? link(source, name) : h('span', {}, name);
}

export class LiveMarkdown {
  #element;
  #onSettled;
  #settled = 0; // characters of the text whose blocks are final
  #live = []; // nodes of the last block
  #code = null; // the last block, if it is code
  #references = {}; // link definitions seen so far

  /** `onSettled` gets the nodes of each stretch of blocks that will not change any more. */
  constructor(element, onSettled = () => {}) {
    this.#element = element;
    this.#onSettled = onSettled;
  }

  /** Draws the text, which begins with the text of the last call. */
  show(text) {
    const rest = text.slice(this.#settled);
    const tokens = markdown.parse(rest, this.#references);
    const last = tokens.findLastIndex((token) => token.level === 0 && token.nesting >= 0);
    if (last < 0) return;
    if (this.#code && last === 0 && tokens[0].type === 'fence' && languageOf(tokens[0]) === this.#code.language) {
      this.#code.show(codeOf(tokens[0]));
      return;
    }
    for (const node of this.#live) node.remove();
    if (last > 0) {
      const settled = [...build(tokens.slice(0, last)).childNodes];
      this.#element.append(...settled);
      this.#onSettled(settled);
      this.#settled += offsetOfLine(rest, tokens[last].map[0]);
    }
    this.#code = tokens[last].type === 'fence' ? new CodeBlock(languageOf(tokens[last])).show(codeOf(tokens[last])) : null;
    this.#live = this.#code ? [this.#code.element] : [...build(tokens.slice(last)).childNodes];
    this.#element.append(...this.#live);
  }

  /** The text is whole: its last block is final too. */
  end() {
    if (this.#live.length) this.#onSettled(this.#live);
    this.#live = [];
  }
}

function offsetOfLine(text, line) {
  let offset = 0;
  for (; line > 0; line--) offset = text.indexOf('\n', offset) + 1;
  return offset;
}
