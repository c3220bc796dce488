// Returns the texts whose contrast with the background is too low (WCAG 2).
const channels = (color) => color.match(/[\d.]+/g).map(Number);
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const background = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const color = channels(getComputedStyle(at).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;
  }
  throw new Error("the page has no background");
};
const tooLow = [];
for (const node of document.body.querySelectorAll("*")) {
  const own = [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.textContent.trim());
  if (!own || !node.checkVisibility()) continue;
  const [low, high] = [channels(getComputedStyle(node).color), background(node)].map(luminance).sort((a, b) => a - b);
  const contrast = (high + 0.05) / (low + 0.05);
  if (contrast < 4.5) tooLow.push(`${contrast.toFixed(2)}: ${node.textContent.trim()}`);
}
return tooLow.join("\n");
