/** The list of conversations: search, open, rename, export, import, delete. */

import { button, download, find, h, icon, toast } from './dom.js';
import { fromJson, textOf, toJson, toMarkdown } from './conversation.js';

const DAY = 86_400_000;

export class Sidebar {
  #chat;
  #isNarrow = matchMedia('(max-width: 800px)');
  #renaming = null;

  constructor(chat) {
    this.#chat = chat;
    this.setOpen(!this.#isNarrow.matches && localStorage.getItem('qwen3.sidebar') !== 'closed');
    this.#isNarrow.addEventListener('change', () => this.setOpen(!this.#isNarrow.matches));
    find('search').addEventListener('input', () => this.show());
    find('new-chat').addEventListener('click', () => this.startNew());
    find('toggle-sidebar').addEventListener('click', () => this.toggle());
    find('backdrop').addEventListener('click', () => this.setOpen(false));
    find('import').addEventListener('click', () => find('import-file').click());
    find('import-file').addEventListener('change', (event) => this.#import(event.target));
    find('export-all').addEventListener('click', () => this.#exportAll());
    find('menu').addEventListener('keydown', moveInMenu);
    find('sidebar').addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && this.#isNarrow.matches) this.toggle();
    });
    for (const name of ['changed', 'ended']) chat.addEventListener(name, () => this.show());
    chat.store.onOtherTab((id) => {
      const now = chat.store.conversations.get(id);
      if (id === chat.conversation.id && now && !chat.isRunning(id)) chat.open(now);
      else this.show();
    });
  }

  get isOpen() {
    return find('toggle-sidebar').getAttribute('aria-expanded') === 'true';
  }

  setOpen(isOpen) {
    find('sidebar').inert = !isOpen;
    document.body.classList.toggle('sidebar-closed', !isOpen);
    find('toggle-sidebar').setAttribute('aria-expanded', String(isOpen));
    find('backdrop').hidden = !(isOpen && this.#isNarrow.matches);
  }

  toggle() {
    this.setOpen(!this.isOpen);
    if (!this.#isNarrow.matches) localStorage.setItem('qwen3.sidebar', this.isOpen ? 'open' : 'closed');
    if (this.isOpen) find('new-chat').focus();
    else find('toggle-sidebar').focus();
  }

  search() {
    this.setOpen(true);
    find('search').focus();
  }

  startNew() {
    this.#chat.startNew();
    this.#leave();
  }

  show() {
    const words = find('search').value.toLowerCase().split(/\s+/).filter(Boolean);
    const all = [...this.#chat.store.conversations.values()].filter((each) => each.title || Object.keys(each.nodes).length > 1);
    const found = all.filter((each) => !words.length || words.every((word) => textOf(each).includes(word)));
    found.sort((one, other) => other.updated - one.updated);
    const groups = Map.groupBy(found, ({ updated }) => ageOf(updated));
    const lists = [...groups].map(([age, items]) => h('section', { 'aria-label': age }, h('h2', {}, age), h('ul', {}, ...items.map((each) => this.#item(each)))));
    const nothing = words.length ? 'Nothing found.' : 'No conversations yet.';
    find('conversations').replaceChildren(...(lists.length ? lists : [h('p', { class: 'hint' }, nothing)]));
  }

  #item(conversation) {
    if (this.#renaming === conversation.id) return h('li', {}, this.#nameField(conversation));
    const isCurrent = conversation.id === this.#chat.conversation.id;
    const open = h('button', { type: 'button', class: 'open', 'aria-current': isCurrent ? 'true' : null, title: conversation.title, onclick: () => this.#open(conversation) }, conversation.title || 'Untitled');
    const more = button(`Actions for ${conversation.title || 'Untitled'}`, 'more', (event) => this.#menu(conversation, event.currentTarget), { isBare: true, class: 'plain', 'aria-haspopup': 'menu' });
    const isRunning = this.#chat.isRunning(conversation.id) && h('i', { class: 'running', role: 'img', 'aria-label': 'Answering' });
    return h('li', { class: isCurrent ? 'current' : null }, open, isRunning, more);
  }

  #open(conversation) {
    this.#chat.open(conversation);
    this.#leave();
  }

  #leave() {
    if (this.#isNarrow.matches) this.setOpen(false);
    find('message').focus();
  }

  #menu(conversation, anchor) {
    const menu = find('menu');
    const name = fileName(conversation.title);
    const item = (label, iconName, run) =>
      h('button', { type: 'button', role: 'menuitem', tabindex: -1, onclick: () => (menu.hidePopover(), anchor.focus(), run()) }, icon(iconName), label);
    menu.replaceChildren(
      item('Rename', 'edit', () => this.#rename(conversation)),
      item('Export as JSON', 'download', () => download(`${name}.json`, 'application/json', asFile(toJson(conversation)))),
      item('Export as Markdown', 'download', () => download(`${name}.md`, 'text/markdown', toMarkdown(conversation))),
      item('Delete', 'trash', () => this.#remove(conversation)),
    );
    menu.showPopover();
    const { bottom, right } = anchor.getBoundingClientRect();
    menu.style.top = `${Math.min(bottom + 4, innerHeight - menu.offsetHeight - 8)}px`;
    menu.style.left = `${Math.max(8, right - menu.offsetWidth)}px`;
    menu.firstChild.focus();
  }

  #rename(conversation) {
    this.#renaming = conversation.id;
    this.show();
    const field = find('rename');
    field.focus();
    field.select();
  }

  #nameField(conversation) {
    const field = h('input', { id: 'rename', 'aria-label': 'Name of the conversation', maxlength: 200 });
    field.value = conversation.title;
    const end = (isKept) => {
      if (this.#renaming === null) return;
      this.#renaming = null;
      if (isKept && field.value.trim()) {
        conversation.title = field.value.trim();
        this.#chat.store.put(conversation);
      }
      this.show();
    };
    field.addEventListener('blur', () => end(true));
    field.addEventListener('keydown', (event) => {
      if (event.key === 'Enter') end(true);
      if (event.key === 'Escape') end(false);
      event.stopPropagation();
    });
    return field;
  }

  #remove(conversation) {
    const { store } = this.#chat;
    this.#chat.stop(conversation.id);
    store.remove(conversation.id);
    if (conversation.id === this.#chat.conversation.id) this.#chat.startNew();
    this.show();
    toast(`Deleted “${conversation.title || 'Untitled'}”.`, {
      label: 'Undo',
      run: () => (store.put(conversation), this.show()),
    });
  }

  #exportAll() {
    const all = [...this.#chat.store.conversations.values()].map(toJson);
    if (all.length) download('qwen3-conversations.json', 'application/json', asFile(all));
    else toast('There is nothing to export yet.');
  }

  async #import(input) {
    let last = null;
    for (const file of input.files) {
      try {
        const all = fromJson(JSON.parse(await file.text()));
        for (const conversation of all) await this.#chat.store.put(conversation);
        last = all.at(-1) ?? last;
        toast(`Imported ${all.length === 1 ? `“${all[0].title}”` : `${all.length} conversations`}.`);
      } catch (error) {
        toast(`${file.name} is not a conversation: ${error.message}`);
      }
    }
    input.value = '';
    if (last) this.#open(last);
  }
}

const asFile = (value) => `${JSON.stringify(value, null, 2)}\n`;
const fileName = (title) => title.replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-|-$/g, '').slice(0, 60) || 'conversation';

function ageOf(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return 'Today';
  if (time >= today - DAY) return 'Yesterday';
  return time >= today - 6 * DAY ? 'This week' : 'Earlier';
}

function moveInMenu(event) {
  const items = [...event.currentTarget.children];
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  if (event.key in steps) {
    event.preventDefault();
    items[(items.indexOf(document.activeElement) + steps[event.key] + items.length) % items.length].focus();
  }
}
