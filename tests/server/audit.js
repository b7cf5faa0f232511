// What is wrong with the visible page for people who cannot see it well: names, references, nesting, contrast.
(() => {
  const faults = [];
  const visible = (node) => node.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true }) && !node.closest('[inert]');
  const scope = document.querySelector('dialog[open]') ?? document.body;
  const describe = (node) => `${node.tagName.toLowerCase()}${node.id && `#${node.id}`}.${node.getAttribute('class') ?? ''} ${node.textContent.trim().slice(0, 30)}`;

  const nameOf = (node) => {
    const by = node.getAttribute('aria-labelledby');
    if (by) return by.split(' ').map((id) => document.getElementById(id)?.textContent ?? '').join('');
    if (node.getAttribute('aria-label')) return node.getAttribute('aria-label');
    if (node.labels?.length) return [...node.labels].map((label) => label.textContent).join('');
    return node.matches('input, select, textarea') ? '' : node.textContent || (node.querySelector('[aria-label]') ? 'x' : '');
  };

  for (const node of scope.querySelectorAll('button, a[href], input, select, textarea, summary, [role], [tabindex="0"]')) {
    if (!visible(node) || node.getAttribute('role') === 'status') continue;
    if (!nameOf(node).trim()) faults.push(`without a name: ${describe(node)}`);
    const { width, height } = node.getBoundingClientRect();
    if (node.matches('button, select, [type="checkbox"]') && (width < 16 || height < 16)) faults.push(`too small: ${describe(node)}`);
    if (node.matches('button, a') && node.parentElement.closest('button, a, summary')) faults.push(`a control in a control: ${describe(node)}`);
  }
  for (const node of scope.querySelectorAll('[aria-controls], [aria-labelledby], [aria-describedby], [for]')) {
    if (!visible(node)) continue;
    for (const name of ['aria-controls', 'aria-labelledby', 'aria-describedby', 'for']) {
      for (const id of (node.getAttribute(name) ?? '').split(' ').filter(Boolean)) if (!document.getElementById(id)) faults.push(`${name} of ${describe(node)} names nothing`);
    }
  }
  const ids = [...document.querySelectorAll('[id]')].map((node) => node.id);
  for (const id of new Set(ids)) if (ids.filter((each) => each === id).length > 1) faults.push(`id ${id} twice`);
  for (const image of scope.querySelectorAll('img:not([alt])')) faults.push(`image without alt: ${image.src}`);
  if (!document.documentElement.lang || !document.title) faults.push('no language or title');
  const landmarks = ['main', 'nav', 'header', 'h1'].filter((tag) => document.querySelectorAll(`body ${tag}`).length !== 1);
  if (landmarks.length) faults.push(`landmarks: ${landmarks}`);

  // ---- Contrast: text against the colours below it, by WCAG 2.2.
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const colour = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = (node) => {
    const layers = [];
    for (let each = node; each; each = each.parentElement) layers.push(colour(getComputedStyle(each).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const light = (parts) => {
    const [red, green, blue] = parts.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const walker = document.createTreeWalker(scope, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || seen.has(node) || !visible(node) || node.closest('option, :disabled, .visually-hidden, .skip, svg')) continue;
    seen.add(node);
    const style = getComputedStyle(node);
    const back = behind(node);
    const [one, other] = [light(over(colour(style.color), back)), light(back)].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) faults.push(`contrast ${ratio.toFixed(2)}: ${describe(node)}`);
  }
  return faults;
})()
