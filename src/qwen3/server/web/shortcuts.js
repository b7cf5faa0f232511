/** Everything by the keyboard: the shortcuts, and the dialog that lists them. */

import { find, h } from './dom.js';
import { dialogHead } from './settings.js';

// By the place of the key, since Alt changes the letter on some keyboards.
const KEYS = {
  KeyN: ['N', 'New chat'],
  KeyK: ['K', 'Search conversations'],
  KeyB: ['B', 'Show or hide the conversations'],
  KeyI: ['I', 'Go to the message field'],
  KeyT: ['T', 'Thinking on or off'],
  KeyA: ['A', 'Answer now: end the thinking'],
  KeyR: ['R', 'Retry the last answer'],
  KeyE: ['E', 'Edit the last question'],
  Comma: [',', 'Previous version of the last branched message'],
  Period: ['.', 'Next version of the last branched message'],
  KeyC: ['C', 'Copy the last answer'],
  KeyM: ['M', 'Change between chat and memory'],
  KeyS: ['S', 'Settings'],
  KeyH: ['H', 'This list'],
};
const OTHERS = [
  [['Enter'], 'Send'],
  [['Shift', 'Enter'], 'New line'],
  [['Esc'], 'Stop the answer, close a dialog, leave an edit'],
];

/** `actions` by the code of the key that is pressed with Alt; `stop` is for Escape. */
export function listen(actions, stop) {
  document.addEventListener('keydown', (event) => {
    const hasDialog = document.querySelector('dialog[open], [popover]:popover-open');
    if (event.key === 'Escape' && !hasDialog) stop();
    if (!event.altKey || event.ctrlKey || event.metaKey || !(event.code in KEYS)) return;
    event.preventDefault();
    if (!hasDialog || event.code === 'KeyH' || event.code === 'KeyS') actions[event.code]();
  });
}

export function toggleShortcuts() {
  const dialog = find('shortcuts');
  if (dialog.open) {
    dialog.close();
    return;
  }
  const row = ([keys, what]) => h('tr', {}, h('th', { scope: 'row' }, what), h('td', {}, ...keys.flatMap((key, i) => [i > 0 && ' + ', h('kbd', {}, key)])));
  const all = [...OTHERS, ...Object.values(KEYS).map(([key, what]) => [['Alt', key], what])];
  dialog.replaceChildren(dialogHead('shortcuts-title', 'Shortcuts', dialog), h('table', {}, h('tbody', {}, ...all.map(row))));
  dialog.showModal();
}
