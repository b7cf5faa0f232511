/**
 * What the browser keeps: conversations in IndexedDB, settings in localStorage. Other tabs of the page hear of changes.
 * Where the browser keeps nothing (some private windows), conversations last as long as the page.
 */

const TABLE = 'conversations';
const SETTINGS = 'qwen3.settings';

const DEFAULTS = {
  theme: 'system',
  thinking: true,
  budget: null,
  sampling: { thinking: null, plain: null },
  maxTokens: null,
  seed: null,
  system: '',
  useTools: false,
  tools: '',
  useJson: false,
  schema: '',
  sendsOnEnter: true,
};

export function loadSettings() {
  const kept = JSON.parse(localStorage.getItem(SETTINGS) ?? '{}');
  return Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, kept[name] ?? structuredClone(value)]));
}

export function saveSettings(settings) {
  localStorage.setItem(SETTINGS, JSON.stringify(settings));
}

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

export class Store {
  #database;
  #channel = new BroadcastChannel('qwen3.conversations');
  conversations = new Map();

  /** All conversations, read once. `isKept` says whether they outlast the page. */
  static async open() {
    const store = new Store();
    try {
      const opening = indexedDB.open('qwen3', 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore(TABLE, { keyPath: 'id' });
      store.#database = await done(opening);
      for (const each of await done(store.#table('readonly').getAll())) store.conversations.set(each.id, each);
    } catch {
      store.#database = null;
    }
    return store;
  }

  get isKept() {
    return Boolean(this.#database);
  }

  /** Calls back with the id of each conversation that another tab has saved or removed. */
  onOtherTab(changed) {
    this.#channel.onmessage = async ({ data: id }) => {
      const now = await done(this.#table('readonly').get(id));
      if (now) this.conversations.set(id, now);
      else this.conversations.delete(id);
      changed(id);
    };
  }

  async put(conversation) {
    this.conversations.set(conversation.id, conversation);
    if (!this.#database) return;
    await done(this.#table('readwrite').put(conversation));
    this.#channel.postMessage(conversation.id);
  }

  async remove(id) {
    this.conversations.delete(id);
    if (!this.#database) return;
    await done(this.#table('readwrite').delete(id));
    this.#channel.postMessage(id);
  }

  #table(mode) {
    return this.#database.transaction(TABLE, mode).objectStore(TABLE);
  }
}
