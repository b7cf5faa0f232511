/** The chosen colours, before anything is drawn: loaded in the head, so the page never flashes in the other ones. */
(() => {
  const chosen = JSON.parse(localStorage.getItem('qwen3.settings') || '{}').theme;
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
})();
