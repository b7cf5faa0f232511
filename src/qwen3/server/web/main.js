/** The page: puts the parts together, and decides what is shown. */

import { getSetup } from './api.js';
import { Chat } from './chat.js';
import { Composer } from './composer.js';
import { announce, copyText, find, icon, toast } from './dom.js';
import { Memory } from './memory.js';
import { Messages } from './messages.js';
import { askForKey, Settings } from './settings.js';
import { listen, toggleShortcuts } from './shortcuts.js';
import { Sidebar } from './sidebar.js';
import { loadSettings, saveSettings, Store } from './store.js';

const THEMES = ['system', 'light', 'dark'];
const RECONNECT_EVERY = 3000; // ms

const settings = loadSettings();
const store = await Store.open();
for (const node of document.querySelectorAll('[data-icon]')) node.prepend(icon(node.dataset.icon));

const chat = new Chat(store, settings, askForKeyAgain);
const messages = new Messages(chat);
const composer = new Composer(chat, () => saveSettings(settings));
const dialog = new Settings(chat, () => {
  saveSettings(settings);
  composer.show();
});
const memory = new Memory();
const sidebar = new Sidebar(chat);

async function askForKeyAgain() {
  const isGiven = await askForKey();
  if (isGiven && !chat.setup) await connect();
  return isGiven;
}

// ---- The server -----------------------------------------------------------------------------------------------------

async function connect() {
  try {
    chat.setup = await getSetup();
  } catch (error) {
    find('model').textContent = error.status === 0 ? 'not connected' : error.message; // such as: the model is loading
    find('model').className = 'lost';
    if (error.status === 401) await askForKeyAgain();
    else setTimeout(connect, RECONNECT_EVERY);
    return;
  }
  const { name, storage, max_context: limit } = chat.setup.model;
  find('model').textContent = name;
  find('model').className = '';
  find('model').title = `${name}: ${storage}, context ${limit.toLocaleString('en')} tokens`;
  if (!chat.path.length) messages.show();
  composer.show();
  if (!find('memory').hidden) memory.show();
}

// ---- Views ----------------------------------------------------------------------------------------------------------

/** The address names the view: #memory, or #c=ID for a conversation, so that a reload shows the same again. */
function showView() {
  const isMemory = location.hash === '#memory';
  for (const [name, isShown] of [['chat', !isMemory], ['memory', isMemory]]) {
    find(name).hidden = !isShown;
    const tab = find(`${name}-tab`);
    tab.setAttribute('aria-selected', String(isShown));
    tab.tabIndex = isShown ? 0 : -1;
  }
  if (isMemory) {
    memory.show();
    return;
  }
  const asked = store.conversations.get(location.hash.replace('#c=', ''));
  if (asked && asked !== chat.conversation) chat.open(asked);
  if (!location.hash && chatHash()) chat.startNew();
  messages.toEnd();
}

const chatHash = () => (store.conversations.has(chat.conversation.id) ? `#c=${chat.conversation.id}` : '');

function choose(name) {
  location.hash = name === 'memory' ? '#memory' : chatHash();
}

chat.addEventListener('changed', () => {
  document.title = chat.conversation.title ? `${chat.conversation.title} · Qwen3` : 'Qwen3';
  if (location.hash !== chatHash()) history.pushState(null, '', `/${chatHash()}`);
  if (find('chat').hidden) showView();
});
chat.addEventListener('unsaved', () => toast('The browser could not keep this conversation: export it.'));
addEventListener('hashchange', showView);
addEventListener('popstate', showView);

const tabs = [find('chat-tab'), find('memory-tab')];
for (const tab of tabs) {
  const name = tab.getAttribute('aria-controls');
  tab.addEventListener('click', () => choose(name));
  tab.addEventListener('keydown', (event) => {
    if (event.key !== 'ArrowLeft' && event.key !== 'ArrowRight') return;
    const other = tabs.find((each) => each !== tab);
    choose(other.getAttribute('aria-controls'));
    other.focus();
  });
}

document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  composer.focus();
});

// ---- Colours --------------------------------------------------------------------------------------------------------

function showTheme() {
  const { theme } = settings;
  if (theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  find('theme').replaceChildren(icon(theme));
  find('theme').title = `Colours: ${theme === 'system' ? 'as the system' : theme}`;
}

find('theme').addEventListener('click', () => {
  settings.theme = THEMES[(THEMES.indexOf(settings.theme) + 1) % THEMES.length];
  saveSettings(settings);
  showTheme();
  announce(find('theme').title);
});

// ---- Keys -----------------------------------------------------------------------------------------------------------

const isAnswer = (node) => node.role === 'assistant';
const isQuestion = (node) => node.role === 'user';
const isBranched = (node) => chat.conversation.nodes[node.parent].children.length > 1;
const showVersion = (step) => {
  const view = messages.last(isBranched);
  if (view) chat.showSibling(view.node, step);
};

listen(
  {
    KeyN: () => sidebar.startNew(),
    KeyK: () => sidebar.search(),
    KeyB: () => sidebar.toggle(),
    KeyI: () => composer.focus(),
    KeyT: () => composer.toggleThinking(),
    KeyA: () => chat.answerNow().catch((error) => toast(error.message)),
    KeyR: () => messages.last(isAnswer) && chat.retry(messages.last(isAnswer).node),
    KeyE: () => messages.last(isQuestion)?.edit(),
    Comma: () => showVersion(-1),
    Period: () => showVersion(1),
    KeyC: async () => {
      await copyText(messages.last(isAnswer)?.node.content ?? '');
      toast('Copied the last answer.');
    },
    KeyM: () => choose(find('memory').hidden ? 'memory' : 'chat'),
    KeyS: () => dialog.toggle(),
    KeyH: toggleShortcuts,
  },
  () => chat.stop(),
);
find('show-shortcuts').addEventListener('click', toggleShortcuts);

// ---- Start ----------------------------------------------------------------------------------------------------------

showTheme();
if (!store.isKept) toast('This browser keeps no conversations here: export what you need.');
messages.show();
sidebar.show();
showView();
composer.focus();
await connect();
