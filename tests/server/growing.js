// For each text: the nodes after it has come letter by letter, the nodes of the whole, and how often the first was drawn.
async (texts) => {
  const { LiveMarkdown, renderMarkdown } = await import('/web/markdown.js');
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
    return [live.innerHTML, whole.innerHTML, firsts.size];
  });
};
