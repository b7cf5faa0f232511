/**
 * Markdown to nodes. markdown-it reads the text into tokens, of which the nodes are built one by one: HTML in the text
 * is text, links go to the web or to mail, and images are not loaded but named.
 *
 * `LiveMarkdown` draws a text that grows. What stands before the last block cannot change any more once that block's
 * first line is whole, so only the rest is read and drawn again.
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
  #live = []; // nodes of the blocks that are not final
  #code = null; // the only such block, if it is code
  #references = {}; // link definitions in what is final

  /** `onSettled` gets the nodes of each stretch of blocks that will not change any more. */
  constructor(element, onSettled = () => {}) {
    this.#element = element;
    this.#onSettled = onSettled;
  }

  /** Draws the text, which begins with the text of the last call. */
  show(text) {
    const rest = text.slice(this.#settled);
    const tokens = markdown.parse(rest, { references: { ...this.#references } });
    const isBlock = (token) => token.level === 0 && token.nesting >= 0;
    // A block whose first line is still on its way may yet belong to the block before it.
    const wholeLines = rest.split('\n').length - 1;
    const last = Math.max(0, tokens.findLastIndex((token) => isBlock(token) && token.map[0] < wholeLines));
    const code = tokens.length === last + 1 && tokens[last].type === 'fence' ? tokens[last] : null;
    if (this.#code && code && last === 0 && languageOf(code) === this.#code.language) {
      this.#code.show(codeOf(code));
      return;
    }
    for (const node of this.#live) node.remove();
    if (last > 0) {
      const end = offsetOfLine(rest, tokens[last].map[0]);
      const settled = [...build(markdown.parse(rest.slice(0, end), { references: this.#references })).childNodes];
      this.#element.append(...settled);
      this.#onSettled(settled);
      this.#settled += end;
    }
    this.#code = code && new CodeBlock(languageOf(code)).show(codeOf(code));
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
