// Saves a figure as a PNG at twice its size, in the colours of paper; without a request.
const INK = "#1b1f24", PAPER = "#ffffff", SCALE = 2;
function selfContained(svg) {
  const copy = svg.cloneNode(true);
  for (const use of copy.querySelectorAll("use")) {
    use.replaceWith(document.querySelector(use.getAttribute("href")).cloneNode(true));
  }
  const text = new XMLSerializer().serializeToString(copy);
  return text.replaceAll("currentColor", INK).replaceAll("var(--paper)", PAPER);
}
async function drawn(svg) {
  const image = new Image();
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(selfContained(svg));
  await image.decode();
  return image;
}
// Where each drawing of a figure stands on the sheet. A figure of one drawing has its own size, one of
// several (the gallery) that of the page; folded ones are left out.
function places(name) {
  const drawings = [...document.querySelectorAll(`#figure-${name} svg`)];
  const shown = drawings.map(svg => ({svg, box: svg.getBoundingClientRect()})).filter(({box}) => box.width);
  const left = Math.min(...shown.map(({box}) => box.left)), top = Math.min(...shown.map(({box}) => box.top));
  const own = shown.length === 1 ? shown[0].svg.viewBox.baseVal.width / shown[0].box.width : 1;
  const scale = SCALE * own;
  return shown.map(({svg, box}) => ({
    svg, x: scale * (box.left - left), y: scale * (box.top - top), width: scale * box.width, height: scale * box.height,
  }));
}
async function save(name) {
  const parts = places(name);
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(Math.max(...parts.map(part => part.x + part.width)));
  canvas.height = Math.round(Math.max(...parts.map(part => part.y + part.height)));
  const pen = canvas.getContext("2d");
  pen.fillStyle = PAPER;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  for (const {svg, x, y, width, height} of parts) {
    pen.drawImage(await drawn(svg), x, y, width, height);
  }
  const link = document.createElement("a");
  link.href = canvas.toDataURL("image/png");
  link.download = name + ".png";
  link.click();
}
for (const button of document.querySelectorAll("[data-png]")) {
  button.hidden = false;
  button.addEventListener("click", () => save(button.dataset.png));
}
