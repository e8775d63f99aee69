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
async function save(name) {
  const all = [...document.querySelectorAll(`#figure-${name} svg`)];
  const parts = all.filter(svg => svg.getBoundingClientRect().width > 0);
  const boxes = parts.map(svg => svg.getBoundingClientRect());
  const left = Math.min(...boxes.map(box => box.left)), top = Math.min(...boxes.map(box => box.top));
  const right = Math.max(...boxes.map(box => box.right)), bottom = Math.max(...boxes.map(box => box.bottom));
  const canvas = document.createElement("canvas");
  canvas.width = SCALE * (right - left);
  canvas.height = SCALE * (bottom - top);
  const pen = canvas.getContext("2d");
  pen.fillStyle = PAPER;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  const images = await Promise.all(parts.map(drawn));
  boxes.forEach((box, i) => {
    pen.drawImage(images[i], SCALE * (box.left - left), SCALE * (box.top - top), SCALE * box.width, SCALE * box.height);
  });
  const link = document.createElement("a");
  link.href = canvas.toDataURL("image/png");
  link.download = name + ".png";
  link.click();
}
for (const button of document.querySelectorAll("[data-png]")) {
  button.hidden = false;
  button.addEventListener("click", () => save(button.dataset.png));
}
