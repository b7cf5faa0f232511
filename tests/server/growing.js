// For each text: the nodes after it has come letter by letter, the nodes of the whole, and how often the first was drawn.
async (texts) => {
  const { LiveMarkdown, renderMarkdown } = await import('/web/markdown.js');
  // A link that is defined after its use becomes one only where the whole text is read at once.
  const clean = (node) => node.innerHTML.replace(/<a href="https:\/\/example.org"[^>]*>link<\/a>/, '[link][a]');
  return texts.map((text) => {
    const live = document.createElement('div');
    const view = new LiveMarkdown(live);
    const firsts = new Set();
    for (let end = 1; end <= text.length; end++) {
      view.show(text.slice(0, end));
      if (live.childElementCount > 3) firsts.add(live.firstElementChild);
    }
    view.end();
    const whole = document.createElement('div');
    whole.append(renderMarkdown(text));
    return [clean(live), clean(whole), firsts.size];
  });
};
