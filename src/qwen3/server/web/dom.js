/**
 * Building blocks of the document. Text becomes text nodes, always: nothing on this page parses HTML, and the page's
 * security policy makes every function throw that would.
 */

const NOTHING = new Set([null, undefined, false, '']);

/** An element; properties named `on...` are listeners, others attributes, and what is null or false is left out. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), properties, children);
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => !NOTHING.has(child)));
  return node;
}

export const find = (id) => document.getElementById(id);

// Strokes on a grid of 20 by 20.
const PATHS = {
  alert: 'M10 3 18 17H2ZM10 8v4M10 14.5v.1',
  braces: 'M8 3C4 3 7 10 3.5 10 7 10 4 17 8 17M12 3c4 0 1 7 4.5 7-3.5 0-.5 7-4.5 7',
  branch: 'M6 3v14M6 12c0-4 8-2 8-7M14 3v2',
  check: 'M4 11l4 4 8-10',
  close: 'M5 5l10 10M15 5 5 15',
  copy: 'M7 7h9v10H7zM4 13V3h9',
  dark: 'M16 12A7 7 0 0 1 8 4a7 7 0 1 0 8 8z',
  down: 'M10 4v12M5 11l5 5 5-5',
  download: 'M10 3v9M6 8.5l4 4 4-4M3.5 16.5h13',
  edit: 'M4 16l1-4 8.5-8.5 3 3L8 15z',
  forward: 'M3 10h12M11 5.5 15.5 10 11 14.5',
  keyboard: 'M2.5 5.5h15v9h-15zM5.5 8.5h.1M9 8.5h.1M12.5 8.5h.1M7 11.5h6',
  left: 'M12 5l-5 5 5 5',
  light: 'M10 6.5a3.5 3.5 0 1 0 .1 0M10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.5 4.5l1 1M14.5 14.5l1 1M4.5 15.5l1-1M14.5 5.5l1-1',
  more: 'M5 10h.1M10 10h.1M15 10h.1',
  plus: 'M10 4v12M4 10h12',
  retry: 'M16 6.5A7 7 0 1 0 17 11M16.5 2.5v4h-4',
  right: 'M8 5l5 5-5 5',
  send: 'M10 16V4M5 9l5-5 5 5',
  sidebar: 'M3 4h14v12H3zM8 4v12',
  sliders: 'M3 6h8M15 6h2M13 4v4M3 14h2M9 14h8M7 12v4',
  stop: 'M6 6h8v8H6z',
  system: 'M3 4h14v9H3zM7 17h6M10 13v4',
  thought: 'M10 3a5 5 0 0 0-3 9v2h6v-2a5 5 0 0 0-3-9M8 17h4',
  tool: 'M12 4a4 4 0 0 0-2 6L4 16l1 1 6-6a4 4 0 0 0 5-5l-2.5 2L12 6z',
  trash: 'M4 6h12M8 6V3.5h4V6M5.5 6l.7 11h7.600l.7-11',
  upload: 'M10 13V4M6 7.5l4-4 4 4M3.5 16.5h13',
};

export function icon(name) {
  return svg('svg', { viewBox: '0 0 20 20', class: 'icon', 'aria-hidden': 'true' }, svg('path', { d: PATHS[name] }));
}

/** A button with an icon; `label` is shown, or only spoken and shown as a tip where `isBare`. */
export function button(label, iconName, onclick, { isBare = false, ...properties } = {}) {
  const names = isBare ? { 'aria-label': label, title: label } : {};
  return h('button', { type: 'button', onclick, ...names, ...properties }, iconName && icon(iconName), !isBare && label);
}

/** Text for who listens instead of looking, spoken when nothing else is. */
export function announce(text) {
  const line = h('p', {}, text);
  find('announcer').append(line);
  setTimeout(() => line.remove(), 10_000);
}

/** A short notice, with at most one thing to do about it. */
export function toast(text, action = null) {
  const close = () => notice.remove();
  const notice = h(
    'div',
    { class: 'toast' },
    h('span', {}, text),
    action && button(action.label, null, () => (close(), action.run())),
    button('Dismiss', 'close', close, { isBare: true, class: 'plain' }),
  );
  find('toasts').append(notice);
  setTimeout(close, action ? 12_000 : 6_000);
}

/** Copies text; also where the page is served without encryption to another machine, and has no clipboard object. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h('textarea', { class: 'visually-hidden', readonly: true });
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
  focused?.focus();
}

/** A button that copies what `text()` gives, and says that it did. */
export function copyButton(label, text) {
  const node = button(label, 'copy', async () => {
    await copyText(text());
    node.firstChild.replaceWith(icon('check'));
    announce('Copied');
    setTimeout(() => node.firstChild.replaceWith(icon('copy')), 1500);
  }, { isBare: true, class: 'plain' });
  return node;
}

/** Hands a text to the browser's downloads. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h('a', { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
