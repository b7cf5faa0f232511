// Notes what a test asks about later: violations of the policy, long tasks, headings that are drawn, what is spoken.
(() => {
  Object.assign(window, { longest: 0, drawn: 0, heard: [] });
  addEventListener('securitypolicyviolation', (event) => (window.violation = event.violatedDirective));
  const observe = (id, note) => {
    const observer = new MutationObserver((list) => list.forEach(({ addedNodes }) => addedNodes.forEach(note)));
    observer.observe(document.getElementById(id), { childList: true, subtree: true });
  };
  observe('messages', (node) => (window.drawn += node.nodeName === 'H5'));
  observe('announcer', (node) => node.nodeName === 'P' && window.heard.push(node.textContent));
  new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) window.longest = Math.max(window.longest, duration);
  }).observe({ type: 'longtask' });
})();
