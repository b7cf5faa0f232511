/**
 * Maths in markdown: $..$ and \(..\) within a line, $$..$$ and \[..\] as blocks; drawn as MathML, which the browser sets.
 * Temml (a script of its own, loaded before the modules) makes the nodes; nothing that reaches out of a formula is
 * trusted, and what it cannot read stays TeX.
 */

import { h } from './dom.js';

const MAX_LENGTH = 20_000;
const OPTIONS = { trust: false, throwOnError: true, maxExpand: 1000, maxSize: [20, 20], annotate: false };

export function maths(tex, isBlock) {
  const place = h(isBlock ? 'div' : 'span', isBlock ? { class: 'maths', tabindex: 0, role: 'group', 'aria-label': 'Formula' } : { class: 'maths' });
  try {
    if (tex.length > MAX_LENGTH) throw new RangeError('too long a formula');
    globalThis.temml.render(tex, place, { ...OPTIONS, displayMode: isBlock });
  } catch {
    // Any fault of a formula, which a model may write in any form, shows the formula as it is.
    place.replaceChildren(h('code', {}, tex.trim()));
  }
  return place;
}

/** Teaches markdown-it the tokens `maths` (content: TeX; block: whether it stands alone). */
export function mathsRules(markdown) {
  markdown.block.ruler.before('fence', 'maths', blockRule, { alt: ['paragraph', 'blockquote', 'list'] });
  markdown.inline.ruler.before('escape', 'maths', inlineRule);
}

const BLOCKS = [['$$', '$$'], ['\\[', '\\]']];
const INLINES = [['$$', '$$', true], ['\\[', '\\]', true], ['\\(', '\\)', false]];

function blockRule(state, startLine, endLine, isSilent) {
  const start = state.bMarks[startLine] + state.tShift[startLine];
  const fence = BLOCKS.find(([open]) => state.src.startsWith(open, start));
  if (!fence || state.sCount[startLine] - state.blkIndent >= 4) return false;
  const lines = [];
  for (let line = startLine; line < endLine; line++) {
    const from = line === startLine ? start + 2 : state.bMarks[line] + state.tShift[line];
    const text = state.src.slice(from, state.eMarks[line]);
    const end = text.indexOf(fence[1]);
    if (end >= 0) {
      // Text behind the formula makes it part of a paragraph.
      if (text.slice(end + 2).trim()) return false;
      lines.push(text.slice(0, end));
      return push(line + 1);
    }
    if (state.sCount[line] < state.blkIndent || (line > startLine && !text.trim())) return false;
    lines.push(text);
  }
  // The end of the text: the rest of the formula may still be on its way.
  return push(endLine);

  function push(nextLine) {
    if (isSilent) return true;
    const token = state.push('maths', '', 0);
    Object.assign(token, { block: true, content: lines.join('\n'), map: [startLine, nextLine] });
    state.line = nextLine;
    return true;
  }
}

function inlineRule(state, isSilent) {
  const { src, pos } = state;
  const char = src[pos];
  if (char !== '$' && char !== '\\') return false;
  const fence = INLINES.find(([open]) => src.startsWith(open, pos));
  let end, next, isBlock = false;
  if (fence) {
    end = src.indexOf(fence[1], pos + 2);
    next = end + 2;
    isBlock = fence[2];
  } else {
    if (char !== '$') return false;
    end = closingDollar(src, pos + 1);
    next = end + 1;
  }
  const tex = end > 0 ? src.slice(next - end + pos, end) : '';
  if (!tex.trim()) return false;
  if (!isSilent) Object.assign(state.push('maths', '', 0), { content: tex, meta: { isBlock } });
  state.pos = next;
  return true;
}

/** A dollar sign opens before anything but space, and closes behind anything but space if no digit follows: as in $5. */
function closingDollar(src, start) {
  if (/\s/.test(src[start] ?? ' ')) return -1;
  for (let end = start; end < src.length; end++) {
    if (src[end] === '\\') end++;
    else if (src[end] === '\n' && src[end + 1] === '\n') return -1;
    else if (src[end] === '$') return /\s/.test(src[end - 1]) || /\d/.test(src[end + 1] ?? '') ? -1 : end;
  }
  return -1;
}
