// What of the visible page is hard to see: texts with a contrast below 4.5, and inputs with an edge below 3 (WCAG 2.2).
() => {
  const channels = (text) => { const [r, g, b, a] = text.match(/[\d.]+/g).map(Number); return [r, g, b, a ?? 1]; };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const luminance = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((v) => (v / 255 <= 0.03928 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const up = function* (node) { for (; node; node = node.parentElement) yield node; };
  const ground = (node) => {
    const layers = [...up(node)].map((each) => channels(getComputedStyle(each).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const hard = [];
  const check = (what, ink, back, least) => {
    const found = contrast(over(ink, back), back);
    if (found < least) hard.push(`${what}: ${found.toFixed(2)}`);
  };
  const visible = (node) => node.checkVisibility({opacityProperty: true, visibilityProperty: true})
    && node.getBoundingClientRect().width > 2;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim(), node = texts.currentNode.parentElement;
    if (!text || !visible(node) || node.closest('script, style')) continue;
    const ink = channels(getComputedStyle(node).color);
    ink[3] *= [...up(node)].reduce((product, each) => product * getComputedStyle(each).opacity, 1);
    check(text.slice(0, 40), ink, ground(node), 4.5);
    count += 1;
  }
  for (const node of document.querySelectorAll('input:not([type=file], [type=radio], [type=range]), textarea')) {
    if (!visible(node)) continue;
    const named = node.ariaLabel || node.placeholder || node.type;
    const pen = getComputedStyle(node, node.value ? null : '::placeholder').color;
    if (node.value || node.placeholder) check(`inside ${named}`, channels(pen), ground(node), 4.5);
    const edged = [...up(node)].find((each) => getComputedStyle(each).borderTopStyle === 'solid'
      && parseFloat(getComputedStyle(each).borderTopWidth) > 0);
    check(`edge of ${named}`, channels(getComputedStyle(edged).borderTopColor), ground(edged.parentElement), 3);
    count += 1;
  }
  return {hard, count};
}
